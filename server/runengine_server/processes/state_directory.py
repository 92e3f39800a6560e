"""The lock on the state directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from runengine_server.settings import SettingsError


@contextlib.contextmanager
def lock_state_directory(path: Path) -> Iterator[None]:
    """Creates the directory where it is missing, and holds an exclusive lock on it while the block runs.
    Raises SettingsError when it cannot be written, or another process holds the lock.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SettingsError(f"RUNENGINE_STATE_DIR: cannot write {path}: {reason}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SettingsError(
                f"runengine already runs in {path}: stop it, or set RUNENGINE_STATE_DIR to another directory"
            ) from None
        yield
    finally:
        os.close(lock)
