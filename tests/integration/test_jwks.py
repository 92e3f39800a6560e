"""Clerk's keys over real HTTP: rotation, outage, and that nobody waits who need not."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from runengine_server.auth import development
from runengine_server.auth.clerk import ClerkVerifier
from runengine_server.auth.jwks import JwksKeys
from runengine_server.domain.errors import Unauthenticated
from structlog.testing import capture_logs

from tests.support.jwks_server import ONE, TWO, Clock, JwksServer, http, jwk, jwks
from tests.support.patience import SECONDS
from tests.support.stack import free_address
from tests.support.token_forge import Forge, generated, part


@pytest.fixture
async def server() -> AsyncIterator[JwksServer]:
    server = JwksServer()
    listening = await server.start()
    yield server
    server.answering.set()
    listening.close()
    await listening.wait_closed()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(server: JwksServer, clock: Clock) -> JwksKeys:
    return JwksKeys(server.url, clock=clock)


async def refresh(keys: JwksKeys, clock: Clock, seconds: float = 60) -> None:
    clock.advance(seconds)
    assert await keys.wait_for_fetch()


def at_once(finding: Coroutine[Any, Any, Any]) -> Any:
    """The result, from a coroutine that does not once wait."""
    try:
        finding.send(None)
    except StopIteration as ended:
        return ended.value
    finding.close()
    pytest.fail("it waits")


async def test_a_kid_finds_its_key_and_no_other(server: JwksServer, keys: JwksKeys) -> None:
    server.answer = http(jwks(jwk(ONE, "one"), jwk(TWO, "two")))
    assert at_once(keys.find(None)) is None
    assert await keys.find("one") == ONE.public_key()
    assert await keys.find("two") == TWO.public_key()
    for unknown in ("three", "", "ONE", None):
        assert await keys.find(unknown) is None
    (request,) = server.requests
    assert request.startswith(b"GET /.well-known/jwks.json?v=1 HTTP/1.1\r\nHost: localhost:")


async def test_a_token_is_checked_with_the_key_that_its_kid_names(server: JwksServer, keys: JwksKeys) -> None:
    server.answer = http(jwks(jwk(ONE, "one"), jwk(TWO, "two")))
    verifier = ClerkVerifier(keys, development.ISSUER, [])
    for forge, kid, good in (
        (Forge(ONE), "one", True),
        (Forge(ONE), "two", False),
        (Forge(TWO), "two", True),
    ):
        assert await accepts(verifier, forge.sign(forge.header(kid=kid), forge.claims())) is good


async def accepts(verifier: ClerkVerifier, token: str) -> bool:
    try:
        await verifier.verify(token)
    except Unauthenticated:
        return False
    return True


async def test_an_unknown_kid_has_the_keys_fetched_anew_but_not_at_will(
    server: JwksServer, keys: JwksKeys, clock: Clock
) -> None:
    assert await keys.find("one") is not None
    server.answer = http(jwks(jwk(ONE, "one"), jwk(TWO, "two")))
    for number in range(100):
        assert await keys.find(f"guess {number}") is None
    assert await keys.find("two") is None
    assert len(server.requests) == 1
    clock.now += 10
    assert await keys.find("two") == TWO.public_key()
    assert await keys.find("guess") is None
    assert len(server.requests) == 2


async def test_a_withdrawn_key_is_forgotten_within_a_minute_though_its_tokens_are_cached(
    server: JwksServer, keys: JwksKeys, clock: Clock
) -> None:
    verifier = ClerkVerifier(keys, development.ISSUER, [])
    forge = Forge(ONE)
    token = forge.sign(forge.header(kid="one"), forge.claims())
    assert await accepts(verifier, token)
    server.answer = http(jwks(jwk(TWO, "two")))
    assert await accepts(verifier, token)
    await refresh(keys, clock)
    assert not await accepts(verifier, token)
    assert verifier.cached_tokens == 0


async def test_the_keys_are_fetched_once_a_minute_and_every_ten_seconds_during_an_outage(
    server: JwksServer, keys: JwksKeys, clock: Clock
) -> None:
    await keys.find("one")
    clock.now += 30
    await keys.find("unknown")
    assert [timer.due - clock.now for timer in clock.timers] == [60]
    server.answer = http(b"", "503 Service Unavailable")
    await refresh(keys, clock)
    assert [timer.due - clock.now for timer in clock.timers] == [10]
    server.answer = http(jwks(jwk(TWO, "two")))
    await refresh(keys, clock, 10)
    assert [timer.due - clock.now for timer in clock.timers] == [60]
    assert at_once(keys.find("two")) == TWO.public_key()


async def test_fifty_calls_at_once_are_one_fetch(server: JwksServer, keys: JwksKeys) -> None:
    server.answering.clear()
    finding = [asyncio.create_task(keys.find("one")) for _ in range(50)]
    await server.asked.wait()
    server.answering.set()
    assert await asyncio.gather(*finding) == [ONE.public_key()] * 50
    assert len(server.requests) == 1


async def test_no_fetch_begins_while_another_is_under_way(
    server: JwksServer, keys: JwksKeys, clock: Clock
) -> None:
    await keys.find("one")
    server.answering.clear()
    server.asked.clear()
    clock.now += 59
    waiting = [asyncio.create_task(keys.find("two"))]
    await server.asked.wait()
    clock.advance(20)
    waiting.append(asyncio.create_task(keys.find("three")))
    await asyncio.sleep(0)
    server.answering.set()
    assert await asyncio.gather(*waiting) == [None, None]
    assert len(server.requests) == 2


async def test_a_caller_that_goes_away_does_not_end_the_fetch_for_the_others(
    server: JwksServer, keys: JwksKeys
) -> None:
    server.answering.clear()
    first, second = (asyncio.create_task(keys.find("one")) for _ in range(2))
    await server.asked.wait()
    first.cancel()
    server.answering.set()
    assert await second == ONE.public_key()
    assert first.cancelled()
    assert len(server.requests) == 1


async def test_a_url_that_says_nothing_keeps_nobody_waiting_whose_kid_is_known(
    server: JwksServer, keys: JwksKeys, clock: Clock
) -> None:
    await keys.find("one")
    server.answering.clear()
    server.asked.clear()
    clock.advance(60)
    assert at_once(keys.find("one")) == ONE.public_key()
    await server.asked.wait()
    assert at_once(keys.find("one")) == ONE.public_key()
    server.answering.set()
    assert await keys.wait_for_fetch()


@pytest.mark.parametrize(
    "says", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"]
)
async def test_an_unknown_kid_is_refused_in_time_though_the_url_never_ends_its_response(
    clock: Clock, says: bytes
) -> None:
    never = asyncio.Event()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(says)
        await never.wait()
        writer.close()

    listening = await asyncio.start_server(stall, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    keys = JwksKeys(f"http://127.0.0.1:{port}", timeout_seconds=0.05, clock=clock)
    async with asyncio.timeout(SECONDS):
        assert await keys.find("one") is None
    assert at_once(keys.find("one")) is None
    never.set()
    listening.close()
    await listening.wait_closed()


async def test_an_unknown_kid_is_refused_though_nobody_listens(clock: Clock) -> None:
    keys = JwksKeys(f"http://{free_address()}", clock=clock)
    forge = Forge(ONE)
    with capture_logs() as logs:
        assert not await accepts(ClerkVerifier(keys, development.ISSUER, []), forge.token())
    assert [entry["error"] for entry in logs] == ["ConnectError"]
    assert at_once(keys.find("one")) is None


GOOD = jwks(jwk(ONE, "one"))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", id="no HTTP"),
        pytest.param(http(GOOD, "500 Internal Server Error"), id="500"),
        pytest.param(http(GOOD, "404 Not Found"), id="404"),
        pytest.param(http(GOOD, "201 Created"), id="201"),
        pytest.param(http(b"{"), id="no JSON"),
        pytest.param(http(b"\xff"), id="no UTF-8"),
        pytest.param(http(b"[" * 100_000), id="nested too deeply"),
        pytest.param(http(b"null"), id="null"),
        pytest.param(http(b"[]"), id="a list"),
        pytest.param(http(b"{}"), id="no keys"),
        pytest.param(http(b'{"keys": null}'), id="null for keys"),
        pytest.param(http(b'{"keys": {"one": 1}}'), id="an object for keys"),
        pytest.param(http(b'{"keys": 1}'), id="a number for keys"),
        pytest.param(http(jwks()), id="an empty list"),
        pytest.param(http(jwks({"kty": "EC", "kid": "one"})), id="no RSA key"),
        pytest.param(http(GOOD)[:-9], id="cut short"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{", id="cut short within a chunk"
        ),
        pytest.param(http(GOOD + b" " * 256 * 1024), id="too large"),
        pytest.param(http(gzip.compress(GOOD), "200 OK", "content-encoding: gzip"), id="compressed"),
        pytest.param(http(GOOD, "200 OK", "x: " + "x" * 100_000), id="a header too large"),
    ],
)
async def test_the_last_good_keys_stay_in_use_during_an_outage(
    server: JwksServer, keys: JwksKeys, clock: Clock, answer: bytes
) -> None:
    await keys.find("one")
    server.answer = answer
    with capture_logs() as logs:
        await refresh(keys, clock)
    assert at_once(keys.find("one")) == ONE.public_key()
    assert at_once(keys.find("two")) is None
    assert [entry["event"] for entry in logs] == ["JWKS cannot be fetched; keeping the last good keys"]
    server.answer = http(jwks(jwk(TWO, "two")))
    await refresh(keys, clock, 10)
    assert at_once(keys.find("two")) == TWO.public_key()


async def test_a_redirect_is_not_followed(server: JwksServer, clock: Clock) -> None:
    redirecting = JwksServer()
    listening = await redirecting.start()
    for status in ("301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"):
        redirecting.answer = http(b"", status, f"location: {server.url}")
        assert await JwksKeys(redirecting.url, clock=clock).find("one") is None
    assert (len(redirecting.requests), len(server.requests)) == (4, 0)
    listening.close()
    await listening.wait_closed()


async def test_a_response_in_chunks_or_without_a_length_is_read(server: JwksServer, clock: Clock) -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in (GOOD[:100], GOOD[100:]))
    for answer in (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n" + GOOD,
    ):
        server.answer = answer
        assert await JwksKeys(server.url, clock=clock).find("one") == ONE.public_key()


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(lambda: jwk(TWO, "two", use="enc"), id="for encryption"),
        pytest.param(lambda: jwk(TWO, "two", use=None), id="for null"),
        pytest.param(lambda: jwk(TWO, "two", alg="RS512"), id="for RS512"),
        pytest.param(lambda: jwk(TWO, "two", alg=["RS256"]), id="for a list"),
        pytest.param(lambda: jwk(TWO, "two", kty="oct", k="AAAA"), id="symmetric"),
        pytest.param(
            lambda: {"kty": "EC", "kid": "two", "crv": "P-256", "x": "AA", "y": "AA"}, id="elliptic"
        ),
        pytest.param(lambda: jwk(generated(1024), "two"), id="too short"),
        pytest.param(
            lambda: jwk(TWO, "two", d=part(TWO.private_numbers().d.to_bytes(256, "big"))), id="private"
        ),
        pytest.param(lambda: jwk(TWO, "two", n=None), id="without a modulus"),
        pytest.param(lambda: jwk(TWO, "two", n="A"), id="with no base64 for a modulus"),
        pytest.param(lambda: jwk(TWO, "two", e="AA"), id="with zero for an exponent"),
        pytest.param(lambda: jwk(TWO, 2), id="with a number for a kid"),
        pytest.param(lambda: jwk(TWO, None), id="without a kid"),
        pytest.param(lambda: jwk(TWO, ["two"]), id="with a list for a kid"),
        pytest.param(lambda: "two", id="a string"),
        pytest.param(lambda: None, id="null"),
    ],
)
async def test_an_unusable_key_among_good_ones_is_left_out(
    server: JwksServer, keys: JwksKeys, entry: Callable[[], object]
) -> None:
    server.answer = http(jwks(entry(), jwk(ONE, "one")))
    assert await keys.find("one") == ONE.public_key()
    assert await keys.find("two") is None
    assert keys.kids == {"one"}


async def test_a_key_may_leave_out_what_it_is_for(server: JwksServer, keys: JwksKeys) -> None:
    entry = {name: value for name, value in jwk(ONE, "one").items() if name not in ("use", "alg")}
    server.answer = http(jwks(entry))
    assert await keys.find("one") == ONE.public_key()


async def test_a_kid_of_two_keys_finds_neither(server: JwksServer, keys: JwksKeys) -> None:
    server.answer = http(jwks(jwk(ONE, "a"), jwk(TWO, "a"), jwk(ONE, "a"), jwk(TWO, "b"), jwk(TWO, "b")))
    assert await keys.find("a") is None
    assert await keys.find("b") == TWO.public_key()
