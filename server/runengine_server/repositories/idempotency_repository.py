"""The answers of calls that came with an idempotency key."""

from __future__ import annotations

from dataclasses import dataclass

from runengine_server.repositories.database import Connection

# Waits while another transaction holds the same key uncommitted: of fifty calls at once one acts, and
# the others see what it stored, or, when it failed, one of them acts instead.
_TAKE = """
INSERT INTO idempotency_keys (tenant_id, key, fingerprint) VALUES ($1, $2, $3)
ON CONFLICT (tenant_id, key) DO NOTHING RETURNING 1
"""
_GET = "SELECT fingerprint, response FROM idempotency_keys WHERE tenant_id = $1 AND key = $2"
_KEEP = "UPDATE idempotency_keys SET response = $3 WHERE tenant_id = $1 AND key = $2"


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """`fingerprint` is of the request that was answered with `response`."""

    fingerprint: bytes
    response: bytes


class IdempotencyRepository:
    """The keys of `tenant_id`, in the transaction of the call that came with one."""

    def __init__(self, transaction: Connection, tenant_id: str) -> None:
        self._transaction = transaction
        self._tenant_id = tenant_id

    async def take(self, key: str, fingerprint: bytes) -> StoredAnswer | None:
        """None when the key is new, and now this call's; else the answer that it already has."""
        while True:
            if await self._transaction.fetchrow(_TAKE, self._tenant_id, key, fingerprint):
                return None
            # None when it was seven days old, and deleted in between.
            if row := await self._transaction.fetchrow(_GET, self._tenant_id, key):
                return StoredAnswer(row["fingerprint"], row["response"])

    async def keep(self, key: str, response: bytes) -> None:
        """Stores the answer; it is there with the commit, together with what the call did."""
        await self._transaction.execute(_KEEP, self._tenant_id, key, response)
