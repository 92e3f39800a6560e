"""The PostgreSQL that comes with the engine."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.stack import postgres_of_ones_own


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
    async with postgres_of_ones_own(directory) as (postgres, _):
        assert postgres.is_running()
    assert limits
