"""Changes the functions that the database keeps, so that a test can see what a guard was good for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import asyncpg
from runengine_server.database import functions

_DECLARED = re.compile(r"^CREATE FUNCTION (\w+)\(.*?^(?:\$\$|RETURN .*?);$", re.MULTILINE | re.DOTALL)

_KEEPS_PATH = "SET search_path FROM CURRENT"
_SEVERAL = "(_tenant text[]"


def texts() -> dict[str, str]:
    """Each function as it stands in its file."""
    return {found[1]: found[0] for text in functions.FILES.values() for found in _DECLARED.finditer(text)}


def called() -> set[str]:
    """The functions that servers call, and not only other functions; without those that call one of these for
    several tenants.
    """
    return {name for name, text in texts().items() if _KEEPS_PATH in text} - batched()


def batched() -> set[str]:
    """The functions that call one of called() for several tenants."""
    return {name for name, text in texts().items() if _KEEPS_PATH in text and _SEVERAL in text}


def rewrite(name: str, guard: str, instead: str) -> None:
    """Replaces `guard` in the function of that name, for this process and every database that it migrates."""
    before = texts()[name]
    assert guard in before, f"no {guard!r} in {name} any more"
    for file, text in functions.FILES.items():
        functions.FILES[file] = text.replace(before, before.replace(guard, instead))
    functions.schema.cache_clear()


async def replace_all(database: asyncpg.Connection[Any], change: Callable[[str], str]) -> None:
    """Changes all functions of one database, of which the process knows nothing."""
    changed = [change(text).replace("CREATE ", "CREATE OR REPLACE ", 1) for text in texts().values()]
    async with database.transaction():
        await database.execute(f"SET LOCAL search_path = {functions.search_path()}")
        await database.execute("\n".join(changed))
