"""A database of one test's own, for which no server does anything."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote
from uuid import uuid4

import asyncpg


@asynccontextmanager
async def own_database() -> AsyncIterator[tuple[str, asyncpg.Connection]]:
    """Its URL for the application, and a superuser's connection."""
    host = os.environ["RUNENGINE_TEST_POSTGRES"]
    name = f"test_{uuid4().hex}"
    admin = await asyncpg.connect(f"postgresql://postgres@/postgres?host={host}")
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE runengine")
    superuser = await asyncpg.connect(f"postgresql://postgres@/{name}?host={host}")
    try:
        yield f"postgresql://runengine_app@/{name}?host={quote(host, safe='%')}", superuser
    finally:
        await superuser.close()
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()
