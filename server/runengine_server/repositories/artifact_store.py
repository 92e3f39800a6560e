"""Where the bytes of artifacts lie: a directory, or a bucket (artifact_bucket.py)."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, unquote
from uuid import UUID

from obstore.store import LocalStore, ObjectStore

_CHUNK = 64 * 1024
# How many artifacts `older_than` lists at once.
PAGE = 1000

# The name of a file that LocalStore is still writing, and that stays when the process dies meanwhile. It
# lists none of them (obstore 0.12).
_STAGED = re.compile(r".+#\d+")


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """Whose stored bytes are, by their key."""

    tenant_id: str
    run_id: UUID
    artifact_id: UUID


class ArtifactStore(ABC):
    """Bytes by key. A key starts with its tenant and its run, so that either can be removed whole."""

    presigns = False

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @staticmethod
    def key(tenant_id: str, run_id: UUID, artifact_id: UUID) -> str:
        """The key of an artifact. Tenant ids come from tokens and may hold anything, so quoted."""
        return f"{quote(tenant_id, safe='').replace('.', '%2E')}/{run_id}/{artifact_id}"

    @abstractmethod
    async def put(self, key: str, data: bytes, name: str, media_type: str) -> None:
        """Stores `data`, whole or not at all."""

    @abstractmethod
    async def delete_unfinished(self, seconds: float) -> int:
        """Deletes what a process began to store longer ago than that, and was killed; how many there were."""

    async def presigned(self, key: str) -> str | None:
        """A URL at which whoever has it gets the bytes for a time, without a token; None unless the store
        `presigns`.
        """
        return None

    async def delete(self, key: str) -> None:
        """Deletes the bytes, if they are there."""
        with suppress(FileNotFoundError):
            await self._store.delete_async(key)

    async def delete_all(self, keys: Sequence[str]) -> None:
        """As `delete`, of several."""
        for key in keys:
            await self.delete(key)

    async def older_than(self, seconds: float) -> AsyncIterator[list[StoredArtifact]]:
        """All that was stored longer ago than that, by this machine's clock, in pages of at most 1,000.
        Leaves out what has a key that no ArtifactStore makes.
        """
        before = datetime.now(UTC) - timedelta(seconds=seconds)
        async for page in self._store.list(chunk_size=PAGE):
            found = [_parsed(each["path"]) for each in page if each["last_modified"] < before]
            yield [each for each in found if each is not None]

    async def read(self, key: str) -> AsyncIterator[bytes]:
        """The bytes, in chunks of at most 64 KiB. Raises FileNotFoundError."""
        result = await self._store.get_async(key)
        async for part in result.stream(min_chunk_size=_CHUNK):
            view = memoryview(part)
            for start in range(0, len(view), _CHUNK):
                yield bytes(view[start : start + _CHUNK])


class ArtifactDirectory(ArtifactStore):
    """A directory of this machine, or one that several share."""

    def __init__(self, directory: Path) -> None:
        super().__init__(LocalStore(prefix=directory, mkdir=True))
        self._directory = directory

    async def put(self, key: str, data: bytes, name: str, media_type: str) -> None:  # noqa: D102
        await self._store.put_async(key, data)

    async def delete_all(self, keys: Sequence[str]) -> None:  # noqa: D102
        await super().delete_all(keys)
        await asyncio.to_thread(self._delete_empty, {self._directory / key for key in keys})

    def _delete_empty(self, files: set[Path]) -> None:
        for directory in {file.parent for file in files}:
            with suppress(OSError):
                directory.rmdir()

    async def delete_unfinished(self, seconds: float) -> int:  # noqa: D102
        return await asyncio.to_thread(self._delete_unfinished, seconds)

    def _delete_unfinished(self, seconds: float) -> int:
        before, deleted = datetime.now(UTC).timestamp() - seconds, 0
        for path in self._directory.glob("*/*/*#*"):
            with suppress(FileNotFoundError):
                if _STAGED.fullmatch(path.name) and path.stat().st_mtime < before:
                    path.unlink()
                    deleted += 1
        return deleted


def _parsed(key: str) -> StoredArtifact | None:
    parts = key.split("/")
    if len(parts) != 3:
        return None
    try:
        found = StoredArtifact(unquote(parts[0]), UUID(parts[1]), UUID(parts[2]))
    except ValueError:
        return None
    is_ours = ArtifactStore.key(found.tenant_id, found.run_id, found.artifact_id) == key
    return found if is_ours and found.tenant_id.isprintable() else None
