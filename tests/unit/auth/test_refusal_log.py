"""The log of refused tokens: why, in a word, and nothing that a stranger wrote or that names a person."""

from __future__ import annotations

import random
import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runengine_server.auth import development
from runengine_server.auth.clerk import ClerkVerifier
from runengine_server.auth.refusals import RefusalCause, RefusalLog, TenantRefused, TokenRefused, shown
from structlog.testing import capture_logs

from tests.support.stack import ROOT
from tests.support.standing_clock import Clock
from tests.support.token_forge import (
    Forge,
    Make,
    claims,
    edited,
    header,
    machine,
    repacked,
)
from tests.support.token_table import BAD, NO_TOKEN_OF_OURS

_BEFORE_THE_SIGNATURE = {
    "no_token", "opaque_token", "too_long", "malformed", "wrong_type", "wrong_algorithm", "forbidden_header",
    "unknown_key", "bad_signature",
}  # fmt: skip


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> RefusalLog:
    return RefusalLog(clock)


async def refusal(verifier: ClerkVerifier, token: str, tenant: str | None = None) -> Any:
    """The error, None when it is not one for the log."""
    try:
        await verifier.verify(token, tenant)
    except (TokenRefused, TenantRefused) as refused:
        return refused
    except Exception:
        return None
    pytest.fail("it is let in")


def lines_of(log: RefusalLog, *refused: TokenRefused | TenantRefused) -> list[dict[str, Any]]:
    with capture_logs() as lines:
        for each in refused:
            log.note(each)
    return [dict(line) for line in lines]


async def test_an_issuer_with_a_slash_too_many_is_in_the_log_beside_the_one_that_is_expected(
    forge: Forge, verifier: ClerkVerifier, log: RefusalLog
) -> None:
    refused = await refusal(verifier, forge.token(iss=development.ISSUER + "/"))
    assert lines_of(log, refused) == [
        {
            "event": "token refused",
            "log_level": "warning",
            "reason": "wrong_issuer",
            "issuer": "https://runengine.development/",
            "expected": "https://runengine.development",
            "advice": "RUNENGINE_CLERK_ISSUER has to be the token's iss, to the letter",
            "suppressed": 0,
        }
    ]


@pytest.mark.parametrize(
    ("make", "tenant", "word", "details"),
    [
        (claims(azp="https://other.example"), None, "wrong_party", {"party": "https://other.example"}),
        (header(cat="cl_B7d4PD222AAA"), None, "wrong_category", {"category": "cl_B7d4PD222AAA"}),
        (claims(nbf=None), None, "invalid_claim", {"claim": "nbf"}),
        (claims(o={"id": 1}), None, "invalid_claim", {"claim": "o"}),
        (machine(sub="mch_9"), None, "unknown_machine", {"machine": "mch_9"}),
        (machine(), None, "no_tenant", {"machine": "mch_1"}),
        (machine(), "org_z\n", "foreign_tenant", {"machine": "mch_1", "tenant": "org_z\\n"}),
    ],
)
async def test_the_log_has_what_helps_to_set_it_right(
    forge: Forge, verifier: ClerkVerifier, make: Make, tenant: str | None, word: str, details: dict[str, Any]
) -> None:
    refused = await refusal(verifier, make(forge), tenant)
    assert (refused.cause.word, refused.details) == (word, details)


class NoKeys:
    async def find(self, kid: str | None) -> None:
        return None


async def test_a_key_that_we_do_not_have_is_a_reason_of_its_own(forge: Forge) -> None:
    refused = await refusal(ClerkVerifier(NoKeys(), development.ISSUER, []), forge.token())
    assert (refused.cause, refused.details) == (RefusalCause.UNKNOWN_KEY, {})


async def test_the_age_of_an_expired_token_is_in_the_log(forge: Forge, verifier: ClerkVerifier) -> None:
    refused = await refusal(verifier, forge.token(exp=1_000_000_000))
    assert refused.cause is RefusalCause.EXPIRED
    assert refused.details["seconds_ago"] > 600_000_000


async def test_nothing_is_quoted_of_a_token_that_is_not_signed(forge: Forge, verifier: ClerkVerifier) -> None:
    of_strangers = [make(forge) for _, word, make in NO_TOKEN_OF_OURS if word in _BEFORE_THE_SIGNATURE]
    of_strangers += [
        repacked(1, iss="https://evil.example\nlevel=info")(forge),
        repacked(0, kid="\r\nforged line")(forge),
        edited(lambda token: token[:-1])(forge),
    ]
    assert len(of_strangers) > 60
    for token in of_strangers:
        assert (await refusal(verifier, token)).details == {}


async def test_no_line_names_a_user_or_an_organisation_or_is_long(
    forge: Forge, verifier: ClerkVerifier, log: RefusalLog, clock: Clock
) -> None:
    for name, word, make in BAD:
        refused = await refusal(verifier, make(forge))
        if not word:
            assert refused is None, name
            continue
        clock.now += 10
        (line,) = lines_of(log, refused)
        text = orjson.dumps(line)
        assert len(text) < 1000, name
        assert not any(each in text for each in (b"user_", b"org_a", b"org_b", b"acme", b"\\n")), name


@given(st.text())
def test_a_text_from_a_token_is_shown_as_one_short_line_of_printable_ascii(text: str) -> None:
    line = shown(text)
    assert len(line) <= 200
    assert all(0x20 <= ord(letter) <= 0x7E for letter in line)


@pytest.mark.parametrize(
    ("issuer", "line"),
    [
        ("https://a.example/\r\n2026 token accepted", "https://a.example/\\r\\n2026 token accepted"),
        ("\x1b[2J\x1b]0;owned\x07", "\\x1b[2J\\x1b]0;owned\\x07"),
        ("https://\u202eelpmaxe", "https://\\u202eelpmaxe"),
        ("\ud800", "\\ud800"),
        ("x" * 4000, "x" * 200),
    ],
)
async def test_an_issuer_that_would_write_into_the_log_is_escaped(
    forge: Forge, verifier: ClerkVerifier, log: RefusalLog, issuer: str, line: str
) -> None:
    (logged,) = lines_of(log, await refusal(verifier, forge.token(iss=issuer)))
    assert logged["issuer"] == line
    orjson.dumps(logged)


def test_a_reason_is_logged_once_in_ten_seconds_and_then_says_how_many_were_left_out(
    log: RefusalLog, clock: Clock
) -> None:
    expired, party = TokenRefused(RefusalCause.EXPIRED), TokenRefused(RefusalCause.WRONG_PARTY)
    assert [line["suppressed"] for line in lines_of(log, expired, expired, expired)] == [0]
    assert [line["reason"] for line in lines_of(log, party, expired)] == ["wrong_party"]
    clock.now = 9.9
    assert lines_of(log, expired, party) == []
    clock.now = 10
    assert [(line["reason"], line["suppressed"]) for line in lines_of(log, expired, expired, party)] == [
        ("expired", 4),
        ("wrong_party", 1),
    ]
    clock.now = 20
    assert [line["suppressed"] for line in lines_of(log, expired)] == [1]


def test_a_flood_of_all_reasons_leaves_a_line_of_each(log: RefusalLog, clock: Clock) -> None:
    flood = [TokenRefused(cause) for cause in RefusalCause] * 1000
    random.Random(1).shuffle(flood)
    with capture_logs() as lines:
        for number, refused in enumerate(flood):
            clock.now = 60 * number / len(flood)
            log.note(refused)
    assert len(lines) <= 6 * len(RefusalCause)
    assert len(lines) + sum(line["suppressed"] for line in lines) <= len(flood)


def test_the_documentation_explains_each_reason() -> None:
    text = (ROOT / "docs" / "tokens.md").read_text()
    assert set(re.findall(r"^\| `([a-z_]+)`[^|]*\|", text.partition("| `reason` |")[2], re.M)) == {
        cause.word for cause in RefusalCause
    }
