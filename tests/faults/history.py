"""What happened, as clients, workers, nodes and the driver of the faults saw it.

A file of JSON lines to which each process appends: one write a line, so that a line is there whole or
not at all, and stays when its writer is killed.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import orjson

Note = dict[str, Any]


class History:
    """Appends to the file; does nothing without one. The clock is the machine's, as PostgreSQL's is."""

    def __init__(self, path: str | Path | None) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._file = os.open(path, flags, 0o600) if path else None
        self._offset = 0
        self._path = path
        self._read: list[Note] = []

    @staticmethod
    def now() -> float:
        """The time of a note."""
        return time.time()

    def note(self, what: str, **details: Any) -> None:
        """Adds a line."""
        if self._file is not None:
            line = {"at": self.now(), "pid": os.getpid(), "what": what, **details}
            os.write(self._file, orjson.dumps(line) + b"\n")

    def read(self) -> list[Note]:
        """All lines so far, of all processes, in the order they were written."""
        assert self._path is not None
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            new = file.read()
        whole = new.rpartition(b"\n")[0]
        if whole:
            self._offset += len(whole) + 1
            self._read += [orjson.loads(line) for line in whole.split(b"\n")]
        return self._read

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


ours = History(os.environ.get("RUNENGINE_HISTORY"))
"""The history that this process was given to write, if any."""
