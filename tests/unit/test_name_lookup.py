"""Names of hosts are looked up on threads that keep nothing from ending."""

from __future__ import annotations

import asyncio
import threading

import pytest
from runengine_server.background.name_lookup import NameLookup

from tests.support.patience import SECONDS


async def test_a_lookup_that_hangs_keeps_no_process_from_ending_and_has_a_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    over = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        over.wait(SECONDS)
        return [(0, 0, 0, "", ("192.0.2.1", 80)), (0, 0, 0, "", ("192.0.2.1", 80))]

    monkeypatch.setattr("runengine_server.background.name_lookup.socket.getaddrinfo", hang)
    names = NameLookup("names", 1)
    first, second = (asyncio.create_task(names.addresses("example.com", 80)) for _ in range(2))
    await asyncio.sleep(0)
    (thread,) = (each for each in threading.enumerate() if each.name == "names")
    assert thread.daemon
    first.cancel()
    over.set()
    assert await second == ["192.0.2.1"]


async def test_a_host_without_an_address_has_none_and_any_other_error_is_told() -> None:
    names = NameLookup("names", 1)
    assert await names.addresses("a" * 70 + ".example.com", 80) == ()
    assert await names.addresses("127.0.0.1", 80) == ["127.0.0.1"]
    with pytest.raises(OverflowError):
        await names.addresses("127.0.0.1", 10**20)
