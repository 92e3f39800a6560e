"""Ready is who can serve; alive is who answers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.support.patience import SECONDS
from tests.support.stack import Stack, own_postgres


async def until(rest: httpx.AsyncClient, status: int) -> httpx.Response:
    async with asyncio.timeout(SECONDS):
        while (response := await rest.get("/readyz")).status_code != status:
            pass
    return response


async def test_readiness_follows_the_database_and_liveness_does_not(
    tmp_path_factory: pytest.TempPathFactory, state_dir: Path
) -> None:
    async with own_postgres(tmp_path_factory.mktemp("postgres")) as (postgres, url):
        stack = Stack(url, state_dir)
        try:
            await stack.start("serve", rest_by="serve")
            async with stack.rest() as rest:
                await until(rest, 200)
                postgres.stop()
                away = await until(rest, 503)
                assert away.json()["reason"] == "UNAVAILABLE"
                assert (await rest.get("/healthz")).status_code == 200
                await postgres.start()
                await until(rest, 200)
        finally:
            await stack.stop()
