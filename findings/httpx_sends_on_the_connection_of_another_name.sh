#!/bin/sh
# httpx: with sni_hostname, a request for one name goes out on a connection whose certificate was checked
#   for another.
#
# One would guess: whoever looks up a host by himself, so as to send to an address that he has checked, asks
#   for https://ADDRESS/ with the extension sni_hostname = NAME (and a Host header); the certificate is then
#   checked for NAME, each time.
# What happens: connections are kept by scheme, address and port alone. The first request to an address has
#   its certificate checked; the next one, with another sni_hostname, is sent on the same connection, and
#   nothing is checked: also where the certificate is good for the first name alone, and the same request on
#   a new connection fails.
# Source: httpx 0.28.1, httpcore 1.0.9: a connection can handle a request when the origins are equal, and
#   the extension is no part of the origin.
# Why it matters: two customers' endpoints behind one address (a CDN, a shared host) get each other's
#   requests past the check of the certificate. Without kept connections (max_keepalive_connections=0) it
#   does not happen.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check httpx==0.28.1 httpcore==1.0.9
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=one.example \
  -addext subjectAltName=DNS:one.example -keyout "$folder/key.pem" -out "$folder/certificate.pem" 2>/dev/null
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import asyncio
import ssl
import sys

import httpx

folder = sys.argv[1]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


async def serve(reader, writer):
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(OK)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def ask(client, port, name):
    url = f"https://127.0.0.1:{port}/"
    try:
        response = await client.get(url, headers={"host": name}, extensions={"sni_hostname": name})
    except httpx.ConnectError as error:
        return type(error).__name__
    return response.status_code


async def main():
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(f"{folder}/certificate.pem", f"{folder}/key.pem")
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    trusted = ssl.create_default_context(cafile=f"{folder}/certificate.pem")
    found = {}
    for kept in (20, 0):
        limits = httpx.Limits(max_keepalive_connections=kept)
        async with httpx.AsyncClient(verify=trusted, trust_env=False, limits=limits) as client:
            found[kept] = [await ask(client, port, name) for name in ("one.example", "two.example")]
    print("connections kept:     one.example", found[20][0], " two.example", found[20][1])
    print("connections not kept: one.example", found[0][0], " two.example", found[0][1])
    sys.exit(found != {20: [200, 200], 0: [200, "ConnectError"]})


asyncio.run(main())
PYTHON
echo "as described: two.example was served on the connection that was checked for one.example"
