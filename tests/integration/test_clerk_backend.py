"""Which tokens @clerk/backend lets in, and as whom, beside ours: each difference has its reason here."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from runengine_server.auth import development
from runengine_server.auth.clerk import ClerkVerifier, PemKey
from runengine_server.domain.errors import NoOrganisation, Unauthenticated

from tests.support.patience import SECONDS
from tests.support.stack import ROOT
from tests.support.token_forge import (
    MACHINES,
    MISSING,
    PARTY,
    Forge,
    In,
    Make,
    claims,
    header,
    machine,
    pem_of,
    version_1,
)
from tests.support.token_table import BAD, GOOD, GOOD_MACHINES, IMPERSONATED

_FOLDER = ROOT / "tests" / "node" / "clerk"
# Within seconds of a limit the two, which judge one after the other, might find it on either side.
_NEAR_A_LIMIT = {
    "expired six seconds ago", "a machine's expired token", "not before ten seconds from now",
    "issued ten seconds from now",
}  # fmt: skip
TOKENS: list[tuple[str, Make]] = [
    *((name, make) for name, _, make in BAD if name not in _NEAR_A_LIMIT),
    *GOOD,
    *IMPERSONATED,
    *GOOD_MACHINES,
    ("expired two minutes ago", claims(exp=In(-120))),
    ("a machine's token that expired two minutes ago", machine(exp=In(-120))),
    ("not before two minutes from now", claims(nbf=In(120))),
    ("issued in two minutes", claims(iat=In(120))),
    ("issued an hour ago", claims(nbf=In(-3600), iat=In(-3600))),
    ("another kid", header(kid="ins_2")),
    ("an empty kid", header(kid="")),
    ("a kid that is a path", header(kid="../../etc/passwd")),
    ("a type in lower case", header(typ="jwt")),
    ("the longer type of an OAuth application's token", header(typ="application/at+jwt")),
    ("version 2 of a personal account", claims(o=MISSING, org_role=MISSING)),
    ("more within o", claims(o={"id": "org_a", "rol": "admin", "slg": "acme", "per": "read", "x": [1]})),
    ("a session's own claims", claims(sid="sess_1", fva=[7, -1], pla="u:free", fea="o:dashboard", jti="x")),
    ("a machine of another issuer", machine(iss="https://evil.example")),
    ("a machine's empty name", machine(sub="mch_")),
    ("a machine in capitals", claims(sub="MCH_1")),
    ("several audiences", version_1(aud=["a", "b"])),
]


class Difference(NamedTuple):
    """We refuse what the others let in, unless `reason` says otherwise; `of` are those who do."""

    reason: str
    of: tuple[str, ...]
    names: tuple[str, ...]


VERIFY, AUTHENTICATE = "verifyToken", "authenticateRequest"
BOTH = (VERIFY, AUTHENTICATE)
DIFFERENCES = [
    Difference(
        "of two readers one may take the first and one the last, or replace what is no UTF-8",
        BOTH,
        (
            "a name twice in the header", "a kid twice", "a name twice within the header", "a claim twice",
            "a claim twice, alike", "a claim twice, once escaped", "an organisation's id twice",
            "act with a sub twice", "a payload in Latin-1", "a payload with a byte order mark",
        ),
    ),
    Difference(
        "no issuer makes them, and to read them costs memory and stack before the signature is known",
        BOTH,
        (
            "too long by a letter", "a header nested too deeply", "a payload nested too deeply", "padding",
            "exp of more digits than Python reads",
        ),
    ),
    Difference("Request of fetch trims a header", (AUTHENTICATE,), ("a line break at the end",)),
    Difference(
        "a header that brings a key or rules of its own is not for us to ignore (RFC 7515, section 4.1.11)",
        BOTH,
        (
            "crit", "crit of something that PyJWT knows", "an empty crit", "b64 false", "b64 true", "jku",
            "jwk", "x5u", "x5c", "x5t", "x5t#S256", "zip", "enc",
        ),
    ),
    Difference(
        "a kid is a string (RFC 7515, section 4.1.4)",
        BOTH,
        ("a kid that is a number", "a kid that is null", "a kid that is a list"),
    ),
    Difference("Clerk always writes both, and a token without has no beginning", BOTH, ("no nbf", "no iat")),
    Difference(
        "no time: it would never end, or is in milliseconds",
        BOTH,
        ("exp infinite by overflow", "exp huge", "exp in milliseconds", "nbf negative"),
    ),
    Difference(
        "an id is printable, goes into PostgreSQL and logs as it is, and is not empty",
        BOTH,
        (
            "sub empty", "sub with a NUL", "sub with a line break", "sub with a lone surrogate",
            "sub too long", "org_id empty", "org_id too long", "org_id not ASCII", "o with an empty id",
            "o with a NUL in its id",
        ),
    ),
    Difference(
        "malformed where a tenant is read from: who wrote it did not mean what we would guess",
        BOTH,
        (
            "o a string", "o a list", "o false", "o without an id", "o with a null id",
            "o with a number for an id", "o with a list for an id", "o with a number for a role",
            "o with a list for a slug", "org_id a number", "org_id false", "org_id a list",
            "org_role an object", "org_slug a number",
        ),
    ),
    Difference(
        "the claim that does not count names another tenant, and who made the token may have meant that",
        BOTH,
        ("two organisations", "two organisations in version 1", "an org_id of another kind than o"),
    ),
    Difference(
        "a version that is neither 2 nor absent is read as version 1 by them, by us not at all",
        BOTH,
        (
            "version 3", "version 1 that says so", "a version in a string", "a version with a fraction",
            "version true", "version null",
        ),
    ),
    Difference(
        "an instance that writes it into all classes lets templates in as sessions",
        BOTH,
        ("the category of all categories",),
    ),
    Difference(
        "verifyToken refuses machines alone; that it is a template's is for authenticateRequest to see",
        (VERIFY,),
        (
            "a template's token", "an unknown category", "a category in lower case", "an empty category",
            "category null", "a category in a list",
        ),
    ),
    Difference("verifyToken does not look at the session", (VERIFY,), ("a pending session",)),
    Difference(
        "the status of a session is active or pending, and absent before there was one",
        BOTH,
        ("a session of an unknown status", "a session of no status"),
    ),
    Difference(
        "an impersonator that cannot be named would act unseen",
        BOTH,
        (
            "act a string", "act a list", "act false", "act empty", "act without a sub",
            "act with an empty sub", "act with a null sub", "act with a number for a sub",
            "act with a space in its sub", "act with a line break in its sub",
            "act with a sub that is too long",
        ),
    ),
    Difference(
        "the settings list the machines that we let in",
        (AUTHENTICATE,),
        ("a machine that is not listed", "a machine's empty name"),
    ),
    Difference(
        "the settings list the machines that we let in; verifyToken takes it for a user with an azp",
        BOTH,
        ("a machine that is not listed, with an organisation",),
    ),
    Difference(
        "authenticateRequest does not compare the issuer of a machine's token",
        (AUTHENTICATE,),
        ("a machine of another issuer",),
    ),
    Difference(
        "we let it in: verifyToken is for sessions, and refuses a machine's category or its want of an azp",
        (VERIFY,),
        ("a machine that asks for no tenant", *(name for name, _ in GOOD_MACHINES)),
    ),
]  # fmt: skip


def _require_node() -> str:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not here")
    version = subprocess.check_output([node, "--version"], text=True)
    if int(version[1:].partition(".")[0]) < 20:
        pytest.skip(f"Node 20 is not here, but {version.strip()}")
    if not (_FOLDER / "node_modules").is_dir():
        pytest.skip("`make node-packages` has not been run")
    return node


class Verdicts(NamedTuple):
    """`ours` and, by who it is, `theirs`: token's name to "refused", or who it speaks for."""

    ours: dict[str, str]
    theirs: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
async def verdicts(state_dir: Path) -> Verdicts:
    node = _require_node()
    forge = Forge(development.private_key(state_dir))
    pem = pem_of(forge.key)
    tokens = {name: make(forge) for name, make in TOKENS}
    assert len(tokens) == len(TOKENS), "a name stands for two tokens"
    settings = {"key": pem, "issuer": development.ISSUER, "parties": [PARTY]}
    lines = [json.dumps({"name": name, "token": token, **settings}) for name, token in tokens.items()]
    written = await asyncio.to_thread(
        subprocess.check_output,
        [node, str(_FOLDER / "verdicts.mjs")],
        input="\n".join(lines).encode(),
        timeout=SECONDS,
    )
    said = [json.loads(line) for line in written.split(b"\n") if line]
    verifier = ClerkVerifier(PemKey(pem), development.ISSUER, [PARTY], MACHINES)
    return Verdicts(
        {name: await verdict(verifier, token) for name, token in tokens.items()},
        {of: {each["name"]: each[of] for each in said} for of in BOTH},
    )


async def verdict(verifier: ClerkVerifier, token: str) -> str:
    """In the words of verdicts.mjs; a machine's tenant is of the call, and no matter here."""
    try:
        caller = await verifier.verify(token, "org_a")
    except Unauthenticated:
        return "refused"
    except NoOrganisation:
        return "user_1@-"
    tenant = "-" if caller.subject.startswith("mch_") else caller.tenant_id
    return f"{caller.subject}@{tenant}" + (f" by {caller.impersonator}" if caller.impersonator else "")


@pytest.mark.parametrize("of", BOTH)
def test_each_difference_between_clerk_and_us_has_its_reason(verdicts: Verdicts, of: str) -> None:
    theirs = verdicts.theirs[of]
    assert theirs.keys() == verdicts.ours.keys()
    found = {name for name, ours in verdicts.ours.items() if differ(ours, theirs[name], of)}
    explained = {name for each in DIFFERENCES if of in each.of for name in each.names}
    assert (sorted(found - explained), sorted(explained - found)) == ([], [])


def differ(ours: str, theirs: str, of: str) -> bool:
    """verifyToken has no word for organisations and impersonators."""
    return ours.partition("@")[0] != theirs.partition("@")[0] if of == VERIFY else ours != theirs


def test_a_caller_that_is_let_in_is_the_same_to_clerk(verdicts: Verdicts) -> None:
    let_in = {name: ours for name, ours in verdicts.ours.items() if ours != "refused"}
    assert len(let_in) > 30
    assert let_in == {name: verdicts.theirs[AUTHENTICATE][name] for name in let_in}
