"""Calls that the state of a run or the token does not allow."""

from __future__ import annotations

from tests.support.bad_input.proto_wire import text, trigger
from tests.support.bad_input.rows import (
    ABSENT,
    ACTIVE,
    ARTIFACTS,
    CAMPAIGN,
    COMPLETED,
    FAILED,
    FOREIGN,
    GOOD,
    INVALID,
    NO_ARTIFACT,
    NO_CAMPAIGN,
    NO_ORGANISATION,
    NO_RUN,
    NO_STEP,
    NO_TOKEN,
    NOT_COMPLETED,
    NOT_RETRYABLE,
    RUNNING,
    TERMINAL,
    Grpc,
    Http,
    Row,
    cancel,
    get,
    retry,
    rpc,
)


def with_key(*keys: str) -> tuple[Http, Grpc]:
    """A trigger with these idempotency keys."""
    headers = tuple(("idempotency-key", key) for key in keys)
    rest = Http("POST", "/runs", GOOD.encode(), (("content-type", "application/json"), *headers))
    return rest, rpc("TriggerRun", trigger(), metadata=headers)


STATE = [
    Row("retry of a completed run", *retry(COMPLETED), NOT_RETRYABLE),
    Row("retry of a running run", *retry(RUNNING), ACTIVE),
    Row("retry of an absent run", *retry(ABSENT), NO_RUN),
    Row("retry of another tenant's run", *retry(FOREIGN), NO_RUN),
    Row("retry of a campaign", *retry(CAMPAIGN), NO_RUN),
    Row("cancel of a completed run", *cancel(COMPLETED), TERMINAL),
    Row("cancel of a failed run", *cancel(FAILED), TERMINAL),
    Row("cancel of an absent run", *cancel(ABSENT), NO_RUN),
    Row("cancel of another tenant's run", *cancel(FOREIGN), NO_RUN),
    Row("steps of an absent run", get(f"/runs/{ABSENT}/steps"), rpc("ListRunSteps", text(1, ABSENT)), NO_RUN),
    Row("steps of another tenant's run", get(f"/runs/{FOREIGN}/steps"),
        rpc("ListRunSteps", text(1, FOREIGN)), NO_RUN),
    Row("artifacts of another tenant's run", get(f"/runs/{FOREIGN}/artifacts"),
        Grpc(ARTIFACTS + "ListRunArtifacts", text(1, FOREIGN)), NO_RUN),
    Row("events of another tenant's run", get(f"/runs/{FOREIGN}/events"),
        rpc("ListRunEvents", text(1, FOREIGN)), NO_RUN),
    Row("output of a running run", get(f"/runs/{RUNNING}/output"),
        rpc("GetRunOutput", text(1, RUNNING)), NOT_COMPLETED),
    Row("output of a failed run", get(f"/runs/{FAILED}/output"),
        rpc("GetRunOutput", text(1, FAILED)), NOT_COMPLETED),
    Row("output of an absent run", get(f"/runs/{ABSENT}/output"),
        rpc("GetRunOutput", text(1, ABSENT)), NO_RUN),
    Row("output of another tenant's run", get(f"/runs/{FOREIGN}/output"),
        rpc("GetRunOutput", text(1, FOREIGN)), NO_RUN),
    Row("data of a step of an absent run", get(f"/runs/{ABSENT}/steps/{ABSENT}/data"),
        rpc("GetRunStepData", text(1, ABSENT) + text(2, ABSENT)), NO_RUN),
    Row("data of a step of another tenant's run", get(f"/runs/{FOREIGN}/steps/{ABSENT}/data"),
        rpc("GetRunStepData", text(1, FOREIGN) + text(2, ABSENT)), NO_RUN),
    Row("data of an absent step", get(f"/runs/{COMPLETED}/steps/{ABSENT}/data"),
        rpc("GetRunStepData", text(1, COMPLETED) + text(2, ABSENT)), NO_STEP),
    Row("data of attempt 0 of a step", get(f"/runs/{COMPLETED}/steps/{ABSENT}/data?attempt=0"),
        rpc("GetRunStepData", text(1, COMPLETED) + text(2, ABSENT) + b"\x18\x00"), INVALID),
    Row("a run as a campaign", get(f"/campaigns/{COMPLETED}"), rpc("GetCampaign", text(1, COMPLETED)),
        NO_CAMPAIGN),
    Row("a run as an artifact", get(f"/artifacts/{COMPLETED}"),
        Grpc(ARTIFACTS + "DownloadArtifact", text(1, COMPLETED)), NO_ARTIFACT),
    Row("retry of a completed run with a body", Http("POST", f"/runs/{COMPLETED}/retry", b'{"force":true}',
        (("content-type", "application/json"),)), None, INVALID),
    Row("retry of a completed run with a parameter", Http("POST", f"/runs/{COMPLETED}/retry?force=1"), None,
        INVALID),
    Row("an idempotency key of 256 characters", *with_key("k" * 256), INVALID),
    Row("an empty idempotency key", *with_key(""), INVALID),
    Row("an idempotency key twice", *with_key("k", "k"), INVALID),
    Row("two idempotency keys", *with_key("k", "l"), INVALID),
]  # fmt: skip


def bearing(*authorizations: str, target: str = f"/runs/{ABSENT}") -> tuple[Http, Grpc]:
    """GetRun of an absent run with these `authorization` headers, and no good one beside them."""
    headers = tuple(("authorization", value) for value in authorizations)
    return get(target, *headers, ("x-no-token", "")), rpc(
        "GetRun", text(1, ABSENT), metadata=headers, token=False
    )


_BEARER = "Bearer @TOKEN@"
_CLAIMS = "eyJzdWIiOiJ4In0"

TOKENS = [
    Row("no token", *bearing(), NO_TOKEN),
    Row("an empty one", *bearing(""), NO_TOKEN),
    Row("the scheme alone", *bearing("Bearer"), NO_TOKEN),
    Row("the scheme and a space", *bearing("Bearer "), NO_TOKEN),
    Row("the token alone", *bearing("@TOKEN@"), NO_TOKEN),
    Row("another scheme", *bearing("Basic @TOKEN@"), NO_TOKEN),
    Row("two spaces", *bearing("Bearer  @TOKEN@"), NO_TOKEN),
    Row("something after it", *bearing("Bearer @TOKEN@ x"), NO_TOKEN),
    Row("the token twice", *bearing("Bearer @TOKEN@,Bearer @TOKEN@"), NO_TOKEN),
    Row("the good header twice", *bearing(_BEARER, _BEARER), NO_TOKEN),
    Row("a good header and a bad one", *bearing(_BEARER, "Bearer x"), NO_TOKEN),
    Row("a bad header and a good one", *bearing("Bearer x", _BEARER), NO_TOKEN),
    Row("a word", *bearing("Bearer x"), NO_TOKEN),
    Row("three dots", *bearing("Bearer ..."), NO_TOKEN),
    Row("no signature", *bearing(f"Bearer eyJhbGciOiJub25lIn0.{_CLAIMS}."), NO_TOKEN),
    Row("a signature of nothing", *bearing(f"Bearer eyJhbGciOiJSUzI1NiJ9.{_CLAIMS}.AAAA"), NO_TOKEN),
    Row("signed with a shared secret", *bearing(f"Bearer eyJhbGciOiJIUzI1NiJ9.{_CLAIMS}.AAAA"), NO_TOKEN),
    Row("a letter more", *bearing(_BEARER + "A"), NO_TOKEN),
    Row("parts that are not base64", *bearing("Bearer !.!.!"), NO_TOKEN),
    Row("five thousand letters", *bearing("Bearer " + "x" * 5_000), NO_TOKEN),
    Row("nine thousand letters", *bearing("Bearer " + "x" * 9_000), NO_TOKEN),
    Row("of another key", *bearing("Bearer @OTHER-KEY@"), NO_TOKEN),
    Row("expired", *bearing("Bearer @EXPIRED@"), NO_TOKEN),
    Row("without an organisation", *bearing("Bearer @NO-ORGANISATION@"), NO_ORGANISATION),
    Row("not ASCII", get(f"/runs/{ABSENT}", ("authorization", "Bearer ü".encode()), ("x-no-token", "")), None,
        NO_TOKEN),
    Row("as binary metadata", None,
        rpc("GetRun", text(1, ABSENT), metadata=(("authorization-bin", b"Bearer x"),), token=False),
        NO_TOKEN),
    Row("in the query", get(f"/runs/{ABSENT}?authorization=@TOKEN@", ("x-no-token", "")), None, NO_TOKEN),
    Row("in a cookie", get(f"/runs/{ABSENT}", ("cookie", "__session=@TOKEN@"), ("x-no-token", "")), None,
        NO_TOKEN),
    Row("none, and a body that is no JSON", Http("POST", "/runs", b"{", (("x-no-token", ""),)), None,
        NO_TOKEN),
    Row("none, and 300 KiB", Http("POST", "/runs", b" " * 300_000, (("x-no-token", ""),)), None, NO_TOKEN),
    Row("none, and bytes that do not parse", None, rpc("GetRun", b"\xff", token=False), NO_TOKEN),
    Row("none, and a malformed id", get("/runs/x", ("x-no-token", "")),
        rpc("GetRun", text(1, "x"), token=False), NO_TOKEN),
]  # fmt: skip
