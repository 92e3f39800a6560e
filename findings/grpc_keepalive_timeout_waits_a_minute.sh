#!/bin/sh
# grpcio: grpc.keepalive_timeout_ms below a minute does nothing; the ping is waited for a minute all the same.
#
# One would guess: with keepalive_time_ms = 1000 and keepalive_timeout_ms = 2000 a connection on which nothing comes
#   back is given up after three seconds, as gRPC's doc/keepalive.md says of the second: "If it does not receive an
#   acknowledgment within this time, it will close the connection."
# What happens: calls go on to wait on the dead connection, and to end by their deadlines. Only with another option,
#   grpc.http2.ping_timeout_ms (default 60,000), set to as little, is the connection given up, and the next call
#   has a new one.
# Source: grpcio 1.85.1. doc/keepalive.md names six options and not that one, nor does a public header: it is
#   GRPC_ARG_PING_TIMEOUT_MS of src/core/ext/transport/chttp2/transport/internal.h, a minute where keepalive is on.
# Why it matters: whoever sets the two documented options believes to be safe from networks that forget connections
#   (NAT, load balancers) within seconds, and is not for a minute.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check grpcio==1.85.1
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import sys
import time

import grpc

DEADLINE, CALLS = 2.0, 5
KEEPALIVE = [("grpc.keepalive_time_ms", 1000), ("grpc.keepalive_timeout_ms", 2000)]


class Wire:
    """A way to a server; a connection on it can be forgotten."""

    def __init__(self, port):
        self.port, self.lost, self.connections = port, set(), 0

    async def accept(self, reader, writer):
        self.connections += 1
        number = self.connections
        server = await asyncio.open_connection("127.0.0.1", self.port)

        async def pump(source, target):
            while data := await source.read(65536):
                if number not in self.lost:
                    target.write(data)
            target.close()

        await asyncio.gather(pump(reader, server[1]), pump(server[0], writer), return_exceptions=True)


async def ask(options):
    server = grpc.aio.server()
    answer = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("Echo", {"Say": answer})])
    wire = Wire(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    listening = await asyncio.start_server(wire.accept, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        say = channel.unary_unary("/Echo/Say")
        await say(b"x", timeout=30)
        wire.lost.add(1)
        began, said = time.monotonic(), []
        for _ in range(CALLS):
            try:
                await say(b"x", timeout=DEADLINE)
                said.append("OK")
            except grpc.aio.AioRpcError as error:
                said.append(error.code().name)
    await server.stop(0)
    print(f"  {said}, {wire.connections} connection(s) in {time.monotonic() - began:.0f} s")
    return wire.connections


async def echo(request, context):
    return request


async def main():
    print("grpcio", grpc.__version__)
    print("keepalive_time_ms 1000, keepalive_timeout_ms 2000")
    without = await ask(KEEPALIVE)
    print("the same, and http2.ping_timeout_ms 2000")
    with_it = await ask([*KEEPALIVE, ("grpc.http2.ping_timeout_ms", 2000)])
    return without == 1 and with_it == 2


sys.exit(0 if asyncio.run(main()) else 1)
PYTHON
