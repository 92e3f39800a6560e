"""The PostgreSQL that comes with the engine."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from runengine_server.processes.embedded_postgres import EmbeddedPostgres

from tests.support.stack import own_postgres


async def test_a_machine_on_which_it_takes_half_a_minute_to_start_waits_for_it(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, limits = subprocess.run, list[float]()

    def run(command: Any, *arguments: Any, timeout: float | None = None, **named: Any) -> Any:
        done = real(command, *arguments, **named)
        if timeout is not None:
            limits.append(timeout)
            if timeout < 30:
                raise subprocess.TimeoutExpired(command, timeout)
        return done

    directory: Path = tmp_path_factory.mktemp("postgres")
    monkeypatch.setattr(subprocess, "run", run)
    async with own_postgres(directory) as (postgres, _):
        assert postgres.is_running()
    assert limits


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_directories_above_that_of_root_can_be_passed_and_not_listed_by_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = Path(tempfile.mkdtemp(prefix="runengine-home-"))
    try:
        postgres = EmbeddedPostgres(home)
        await postgres.start()
        postgres.stop()
        assert stat.S_IMODE(os.stat(home).st_mode) == 0o711
    finally:
        shutil.rmtree(home)
