"""A worker that was stopped while it heard that its step begins does not enter the node when it goes on."""

from __future__ import annotations

from pathlib import Path

import asyncpg

from tests.faults.zombies_enter import entered_by_zombie
from tests.support.stack import Stack


async def test_no_zombie_enters_a_node(stack: Stack, tmp_path: Path, database: asyncpg.Connection) -> None:
    assert await entered_by_zombie(stack, tmp_path, database, 20) == 0
