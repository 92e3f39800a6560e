"""Why a token was refused, for the operator's log. The caller gets the same error whatever the cause is."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from enum import Enum

import structlog

from runengine_server.domain.errors import NoOrganisation, Unauthenticated

# Between two lines of one cause: 21 causes are at most 126 lines a minute, whatever comes.
_SECONDS_BETWEEN_LINES = 10.0
_MAX_SHOWN = 200

_log = structlog.get_logger()


class RefusalCause(Enum):
    """Each cause with the word that the log has for it, and what to do about it."""

    # Causes in what anybody could have written: nothing of it may be quoted.
    NO_TOKEN = "no_token", "send one `authorization: Bearer <JWT>`"
    OPAQUE_TOKEN = (
        "opaque_token",
        "mt_, ak_ and oat_ tokens are opaque and only Clerk can read them; create the machine's token in JWT "
        "format (tokenFormat: 'jwt')",
    )
    TOO_LONG = "too_long", "over 8,192 characters; take custom claims out of the token"
    MALFORMED = "malformed", "not a compact JWT of strict JSON"
    WRONG_TYPE = "wrong_type", "its typ is not JWT; tokens of OAuth applications (at+jwt) are not accepted"
    WRONG_ALGORITHM = "wrong_algorithm", "its alg is not RS256"
    FORBIDDEN_HEADER = "forbidden_header", "its header brings a key or rules of its own"
    UNKNOWN_KEY = (
        "unknown_key",
        "its kid is not in RUNENGINE_CLERK_JWKS_URL; is the token of another instance?",
    )
    BAD_SIGNATURE = (
        "bad_signature",
        "the key that we have did not sign it; is RUNENGINE_CLERK_JWT_KEY of another instance?",
    )
    # Causes in what the issuer has signed.
    WRONG_ISSUER = "wrong_issuer", "RUNENGINE_CLERK_ISSUER has to be the token's iss, to the letter"
    INVALID_CLAIM = "invalid_claim", "the issuer has to write this claim, and in its proper form"
    EXPIRED = "expired", "fetch a fresh token; if all are, compare the clocks"
    NOT_YET_VALID = "not_yet_valid", "compare the clocks of this machine and of the issuer"
    WRONG_CATEGORY = (
        "wrong_category",
        "send the token of the session, not one of a JWT template; for a machine, its M2M token",
    )
    WRONG_PARTY = "wrong_party", "its azp is not in RUNENGINE_CLERK_AUTHORIZED_PARTIES"
    INACTIVE_SESSION = "inactive_session", "the user has yet to finish signing in"
    UNKNOWN_VERSION = "unknown_version", "claims are read with v: 2, and without v"
    TWO_ORGANISATIONS = "two_organisations", "o.id and org_id differ; rename the custom claim"
    UNKNOWN_MACHINE = "unknown_machine", "list the machine and its tenants in RUNENGINE_MACHINES"
    # Causes for a good token, whose caller gets NO_ORGANISATION.
    NO_TENANT = "no_tenant", "a machine names its tenant in one x-tenant-id"
    FOREIGN_TENANT = "foreign_tenant", "list the tenant under the machine in RUNENGINE_MACHINES"

    def __init__(self, word: str, advice: str) -> None:
        self.word = word
        self.advice = advice


class TokenRefused(Unauthenticated):
    """A token is refused. `details` are for the log, and must not identify a person."""

    def __init__(self, cause: RefusalCause, **details: str | int) -> None:
        super().__init__()
        self.cause = cause
        self.details = details


class TenantRefused(NoOrganisation):
    """A machine's token is good, but the tenant that the call names is not."""

    def __init__(self, cause: RefusalCause, **details: str | int) -> None:
        super().__init__()
        self.cause = cause
        self.details = details


def shown(text: str) -> str:
    """The text for the log, whoever wrote it: one line of at most 200 printable ASCII characters."""
    return ascii(text[:_MAX_SHOWN])[1:-1][:_MAX_SHOWN]


class RefusalLog:
    """Logs one line for each cause in ten seconds; the next line says how many were left out since."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._quiet_until: dict[RefusalCause, float] = {}
        self._suppressed: Counter[RefusalCause] = Counter()

    def note(self, refused: TokenRefused | TenantRefused) -> None:
        """Logs the refusal, or counts it for the next line."""
        cause, now = refused.cause, self._clock()
        if now < self._quiet_until.get(cause, now):
            self._suppressed[cause] += 1
            return
        self._quiet_until[cause] = now + _SECONDS_BETWEEN_LINES
        _log.warning(
            "token refused",
            reason=cause.word,
            **refused.details,
            advice=cause.advice,
            suppressed=self._suppressed.pop(cause, 0),
        )
