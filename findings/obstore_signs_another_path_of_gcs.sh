#!/bin/sh
# obstore: a presigned URL of Google Cloud Storage leads to another object where the key has a percent sign.
#
# One would guess: sign() takes the same path as put() and get(), and the URL is that of the object that they mean. Keys
#   with percent signs are usual: quoting is how an id of any spelling becomes one part of a key, a/b as a%2Fb.
# What happens: put() and get() quote the path once more, as a URL needs it (a%252Fb), and so does sign() of S3. sign()
#   of Google signs it as it is given: the URL has a%2Fb, which Google reads as the key a/b. The signature is right, so the
#   response is 404, or the bytes of an object that somebody else was allowed to name a/b.
#   Quoting the path before signing, for Google alone, gives the URL of the object.
# Source: obstore 0.12.1 (object_store 0.14.2), GoogleCloudStorage::signed_url, AmazonS3::signed_url.
# Why it matters: tests run on an S3 server, where it works, and with ids that need no quoting, where it works too.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check obstore==0.12.1 cryptography==50.0.2
"$folder/venv/bin/python" - <<'PYTHON'
import json
import os
import sys
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from urllib.parse import quote, unquote, urlsplit

import obstore
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from obstore.store import GCSStore, S3Store

KEY = "a%2Fb"
asked = []


class Server(BaseHTTPRequestHandler):
    def do_PUT(self):
        self.rfile.read(int(self.headers["content-length"]))
        asked.append(self.path)
        self.send_response(200)
        self.send_header("etag", '"1"')
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
here = f"http://127.0.0.1:{server.server_port}"
pem = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
account = {"type": "service_account", "client_email": "a@b.example", "private_key": pem.decode(), "private_key_id": "1"}
at_server = {**account, "gcs_base_url": here, "disable_oauth": True}
os.environ |= {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_ENDPOINT_URL": here}


def google(of):
    return GCSStore("bucket", config={"service_account_key": json.dumps(of)}, client_options={"allow_http": True})


def key_in(url):
    """The key that a server reads in the path of a URL."""
    return unquote(urlsplit(url).path).removeprefix("/bucket/")


s3 = S3Store("bucket", client_options={"allow_http": True})
minute = timedelta(minutes=1)
found = {}
for name, putting, signing in (("S3", s3, s3), ("Google", google(at_server), google(account))):
    asked.clear()
    putting.put(KEY, b"x")
    found[name] = {"put": key_in(asked[0]), "sign": key_in(obstore.sign(signing, "GET", KEY, minute))}
found["Google, quoted before"] = {"sign": key_in(obstore.sign(google(account), "GET", quote(KEY), minute))}
print("obstore", version("obstore"), "the key", KEY, "is, as a server reads it:")
for name, keys in found.items():
    print(f"  {name}: {keys}")
expected = {"S3": {"put": KEY, "sign": KEY}, "Google": {"put": KEY, "sign": "a/b"}, "Google, quoted before": {"sign": KEY}}
sys.exit(0 if found == expected else "It behaves otherwise now.")
PYTHON
