"""Where the bytes of artifacts lie: a directory, or a bucket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote
from uuid import UUID

from obstore.store import LocalStore, ObjectStore

_CHUNK = 64 * 1024


class ArtifactStore:
    """Bytes by key. A key starts with its tenant and its run, so that either can be removed whole."""

    def __init__(self, directory: Path) -> None:
        self._store: ObjectStore = LocalStore(prefix=directory, mkdir=True)

    @staticmethod
    def key(tenant_id: str, run_id: UUID, artifact_id: UUID) -> str:
        """The key of an artifact. Tenant ids come from tokens and may hold anything, so quoted."""
        return f"{quote(tenant_id, safe='').replace('.', '%2E')}/{run_id}/{artifact_id}"

    async def put(self, key: str, data: bytes) -> None:
        """Stores `data`, whole or not at all."""
        await self._store.put_async(key, data)

    async def delete(self, key: str) -> None:
        """Forgets the bytes."""
        await self._store.delete_async(key)

    async def read(self, key: str) -> AsyncIterator[bytes]:
        """The bytes, in chunks of at most 64 KiB. Raises FileNotFoundError."""
        result = await self._store.get_async(key)
        async for part in result.stream(min_chunk_size=_CHUNK):
            view = memoryview(part)
            for start in range(0, len(view), _CHUNK):
                yield bytes(view[start : start + _CHUNK])
