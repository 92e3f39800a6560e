#!/bin/sh
# obstore: client_options, even a timeout alone, make it forget the client options of the environment.
#
# One would guess: what is given in code goes before what the environment says, option by option, as the configuration of a
#   store does: config={"region": …} leaves AWS_ENDPOINT_URL as it is.
# What happens: AWS_ALLOW_HTTP=true counts until somebody adds client_options={"timeout": "5m"}. Then no option of the
#   environment counts, and each request to an http:// endpoint fails as "HTTP error: builder error", which names neither
#   the option nor the scheme. It has to be read from the environment, and given beside the others. In config, where S3Store()
#   takes it too, S3Store.from_url() ends in a Rust panic, a PanicException, which is no Exception.
# Source: obstore 0.12.1 (object_store 0.14.2), AmazonS3Builder::from_env and with_client_options, PyAmazonS3Config.
# Why it matters: it works with MinIO or moto until a timeout is set, or a timeout is set for production and breaks tests.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check obstore==0.12.1
"$folder/venv/bin/python" 2>"$folder/stderr" - <<'PYTHON'
import os
import sys
from importlib.metadata import version

from obstore.store import S3Store

# Nobody listens there: what is allowed is refused by the machine, what is not is not even tried.
os.environ |= {
    "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_ALLOW_HTTP": "true",
}
NONE_AGAIN = {"retry_config": {"max_retries": 0}}


def tried(make, where, **options):
    try:
        make(where, **NONE_AGAIN, **options).get("key")
    except BaseException as error:
        first = str(error).splitlines()[0]
        return f"{type(error).__name__}: {first.rpartition('HTTP error: ')[2]}"
    return "nothing"


REACHED, NOT_TRIED = "GenericError: error sending request", "GenericError: builder error"
cases = [
    ({}, REACHED),
    ({"config": {"region": "eu-central-1"}}, REACHED),
    ({"client_options": {"timeout": "5m"}}, NOT_TRIED),
    ({"client_options": {"timeout": "5m", "allow_http": True}}, REACHED),
    ({"client_options": {"timeout": "5m"}, "config": {"allow_http": True}}, REACHED),
]
print("obstore", version("obstore"), "with AWS_ALLOW_HTTP=true")
changed = False
for options, expected in cases:
    seen = tried(S3Store, "bucket", **options)
    changed |= seen != expected
    print(f"  {options}: {seen}")
seen = tried(S3Store.from_url, "s3://bucket", config={"allow_http": True})
changed |= not seen.startswith("PanicException")
print(f"  from_url, config={{'allow_http': True}}: {seen}")
sys.exit("It behaves otherwise now." if changed else 0)
PYTHON
