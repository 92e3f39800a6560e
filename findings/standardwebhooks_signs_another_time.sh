#!/bin/sh
# standardwebhooks: a timestamp in a local time zone is signed as if its digits were UTC; the receiver
#   refuses it.
#
# One would guess: sign(msg_id, timestamp, data) signs the moment that an aware datetime is, or refuses one
#   that is not UTC; and verify() raises WebhookVerificationError for any header that is no good.
# What happens: sign() replaces the time zone. With datetime.now(ZoneInfo("Europe/Berlin")) it signs a
#   moment one or two hours ahead, while the header has int(timestamp.timestamp()), the true one: no
#   receiver finds a matching signature. With datetime.now() it depends on the zone of the host: it works in
#   a container, and fails on a laptop. And verify() raises ValueError or binascii.Error for a malformed
#   signature header, which anybody can send.
# Source: standardwebhooks 1.1.0, webhooks.py: timestamp.replace(tzinfo=timezone.utc).
# Why it matters: a receiver that catches the documented exception alone answers 500 to rubbish; a sender
#   works in its tests and not elsewhere.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check standardwebhooks==1.1.0 tzdata==2026.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from datetime import datetime, timezone
from zoneinfo import ZoneInfo

from standardwebhooks import Webhook

webhook = Webhook(b"x" * 32)


def outcome(zone, signature=None):
    now = datetime.now(zone)
    signed = signature or webhook.sign("msg_1", now, "{}")
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signed}
    try:
        webhook.verify("{}", headers)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "verified"


found = {
    "UTC": outcome(timezone.utc),
    "Berlin": outcome(ZoneInfo("Europe/Berlin")),
    "no comma": outcome(timezone.utc, "v1"),
    "no base64": outcome(timezone.utc, "v1,x"),
}
for name, words in found.items():
    print(f"{name:10} {words}")
kinds = [words.partition(":")[0] for words in found.values()]
sys.exit(kinds != ["verified", "WebhookVerificationError", "ValueError", "Error"])
PYTHON
echo "as described: the same moment verifies in UTC alone, and two malformed headers raise what is not documented"
