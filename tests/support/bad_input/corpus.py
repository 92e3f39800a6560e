"""Bad input, and what each piece of it has to be answered with: the one table of the tests of it.

A row says what comes in through REST, what comes in through gRPC, and the one answer to both. Where one
of them has no such thing, its half of the row is None.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

from tests.support.bad_input.proto_wire import (
    NO_KIND,
    Wire,
    a_struct,
    integer,
    nested,
    text,
    trigger,
    varint,
)

RUNS, CAMPAIGNS, ARTIFACTS = (f"/runengine.v1.{name}Service/" for name in ("Run", "Campaign", "Artifact"))

# Stand for things that a test has made; each has the length of what replaces it.
COMPLETED, FAILED, CANCELLED, RUNNING, FOREIGN, CAMPAIGN = (
    f"{digit}" * 8 + "-0000-7000-8000-" + f"{digit}" * 12 for digit in "abcdef"
)
ABSENT = "0190a000-0000-7000-8000-000000000001"


class Answer(NamedTuple):
    code: str
    status: int
    reason: str
    by_transport: bool = False  # then gRPC carries no reason


INVALID = Answer("INVALID_ARGUMENT", 400, "INVALID_ARGUMENT")
NO_TOKEN = Answer("UNAUTHENTICATED", 401, "UNAUTHENTICATED")
NO_ORGANISATION = Answer("PERMISSION_DENIED", 403, "NO_ORGANISATION")
NO_RUN = Answer("NOT_FOUND", 404, "RUN_NOT_FOUND")
NO_CAMPAIGN = Answer("NOT_FOUND", 404, "CAMPAIGN_NOT_FOUND")
NO_ARTIFACT = Answer("NOT_FOUND", 404, "ARTIFACT_NOT_FOUND")
NO_PATH = Answer("", 404, "NOT_FOUND")
NO_METHOD = Answer("", 405, "METHOD_NOT_ALLOWED")
ACTIVE = Answer("FAILED_PRECONDITION", 409, "RUN_ACTIVE")
NOT_RETRYABLE = Answer("FAILED_PRECONDITION", 409, "RUN_NOT_RETRYABLE")
TERMINAL = Answer("FAILED_PRECONDITION", 409, "RUN_TERMINAL")
TOO_LARGE = Answer("INVALID_ARGUMENT", 413, "PAYLOAD_TOO_LARGE")
NO_JSON_TYPE = Answer("", 415, "UNSUPPORTED_MEDIA_TYPE")
UNIMPLEMENTED = Answer("UNIMPLEMENTED", 0, "", by_transport=True)
EXHAUSTED = Answer("RESOURCE_EXHAUSTED", 0, "", by_transport=True)


@dataclass(frozen=True)
class Http:
    method: str
    target: str
    body: bytes = b""
    headers: tuple[tuple[str, str | bytes], ...] = ()


@dataclass(frozen=True)
class Grpc:
    method: str
    request: bytes
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    token: bool = True
    gzip: bool = False


class Row(NamedTuple):
    name: str
    rest: Http | None
    grpc: Grpc | None
    answer: Answer


def get(target: str, *headers: tuple[str, str | bytes]) -> Http:
    return Http("GET", target, headers=headers)


def post(body: bytes | str, target: str = "/runs", media_type: str = "application/json") -> Http:
    raw = body.encode() if isinstance(body, str) else body
    return Http("POST", target, raw, (("content-type", media_type),))


def rpc(method: str, request: bytes, **more: Any) -> Grpc:
    service = CAMPAIGNS if method in ("CreateCampaign", "GetCampaign") else RUNS
    return Grpc(service + method, request, **more)


def by_id(given: str) -> tuple[Http, Grpc]:
    """GetRun with this id."""
    return get("/runs/" + quote(given, safe="")), rpc("GetRun", text(1, given))


def triggered(members: str | bytes, wire: bytes) -> tuple[Http, Grpc]:
    """TriggerRun of a good workflow with these further members of the body."""
    raw = members.encode() if isinstance(members, str) else members
    return post(b'{"workflowName":"rejecting",' + raw + b"}"), rpc("TriggerRun", wire)


def payload(json_text: str | bytes, value: Wire) -> tuple[Http, Grpc]:
    """TriggerRun with this as the member `x` of the payload."""
    raw = json_text.encode() if isinstance(json_text, str) else json_text
    return triggered(b'"triggerPayload":{"x":' + raw + b"}", trigger(payload={"x": value}))


def campaign_in_context(value: Wire) -> tuple[Http, Grpc]:
    members = json.dumps({"context": {"campaignId": value}})[1:-1]
    return triggered(members, trigger(context={"campaignId": value}))


def workflow(name: str) -> tuple[Http, Grpc]:
    return post(json.dumps({"workflowName": name})), rpc("TriggerRun", text(1, name))


def page(query: str, *fields: bytes) -> tuple[Http, Grpc | None]:
    """ListCampaignRuns; without fields, where gRPC has no such thing."""
    request = text(1, ABSENT) + b"".join(fields)
    return get(f"/campaigns/{ABSENT}/runs?{query}"), rpc("ListCampaignRuns", request) if fields else None


def status(number: int) -> bytes:
    return integer(2, number)


def limit(number: int) -> bytes:
    return integer(3, number)


def offset(number: int) -> bytes:
    return integer(4, number)


def page_token(content: str | bytes) -> bytes:
    return text(5, content)


IDS = [
    Row("a word", *by_id("x"), INVALID),
    Row("an integer", *by_id("1"), INVALID),
    Row("a negative integer", *by_id("-1"), INVALID),
    Row("a digit short", *by_id(ABSENT[:-1]), INVALID),
    Row("a digit more", *by_id(ABSENT + "0"), INVALID),
    Row("in braces", *by_id("{" + ABSENT + "}"), INVALID),
    Row("as a URN", *by_id("urn:uuid:" + ABSENT), INVALID),
    Row("without hyphens", *by_id(ABSENT.replace("-", "")), INVALID),
    Row("hyphens elsewhere", *by_id("0190-a0000000-7000-8000-000000000001"), INVALID),
    Row("a digit that is none", *by_id("g" + ABSENT[1:]), INVALID),
    Row("a space before it", *by_id(" " + ABSENT), INVALID),
    Row("a newline after it", *by_id(ABSENT + "\n"), INVALID),
    Row("NUL after it", *by_id(ABSENT + "\0"), INVALID),
    Row("NUL alone", *by_id("\0"), INVALID),
    Row("full-width digits", *by_id("０１９０" + ABSENT[4:]), INVALID),
    Row("Arabic digits", *by_id("٠١٩٠" + ABSENT[4:]), INVALID),
    Row("a Cyrillic a", *by_id("0190\u0430000" + ABSENT[8:]), INVALID),
    Row("a soft hyphen", *by_id(ABSENT.replace("-", "\u00ad", 1)), INVALID),
    Row("a right-to-left mark", *by_id("\u202e" + ABSENT), INVALID),
    Row("an emoji", *by_id("🚀"), INVALID),
    Row("SQL", *by_id("' OR 1=1; --"), INVALID),
    Row("a path", *by_id("../../etc/passwd"), INVALID),
    Row("a format", *by_id("%s%n{0}${x}"), INVALID),
    Row("null", *by_id("null"), INVALID),
    Row("four thousand digits", *by_id("0" * 4_000), INVALID),
    Row("escaped twice", get("/runs/" + ABSENT.replace("-", "%252d")), None, INVALID),
    Row("not UTF-8", get("/runs/%ff%fe"), rpc("GetRun", text(1, b"\xff\xfe")), INVALID),
    Row("an overlong slash", get("/runs/%c0%af"), rpc("GetRun", text(1, b"\xc0\xaf")), INVALID),
    Row("a surrogate in UTF-8", get("/runs/%ed%a0%80"), rpc("GetRun", text(1, b"\xed\xa0\x80")), INVALID),
    Row("empty", None, rpc("GetRun", text(1, "")), INVALID),
    Row("none at all", None, rpc("GetRun", b""), INVALID),
    Row("well-formed and absent", *by_id(ABSENT), NO_RUN),
    Row("in upper case and absent", *by_id(ABSENT.upper()), NO_RUN),
    Row("nil", *by_id("00000000-0000-0000-0000-000000000000"), NO_RUN),
    Row("all ones", *by_id("ffffffff-ffff-ffff-ffff-ffffffffffff"), NO_RUN),
    Row("of no known version", *by_id("0190a000-0000-f000-0000-000000000001"), NO_RUN),
    Row("another tenant's", *by_id(FOREIGN), NO_RUN),
    Row("steps of a word", get("/runs/x/steps"), rpc("ListRunSteps", text(1, "x")), INVALID),
    Row("events of a word", get("/runs/x/events"), rpc("ListRunEvents", text(1, "x")), INVALID),
    Row("retry of a word", Http("POST", "/runs/x/retry"), rpc("RetryRun", text(1, "x")), INVALID),
    Row("cancel of a word", Http("DELETE", "/runs/x"), rpc("CancelRun", text(1, "x")), INVALID),
    Row("runs of a word", get("/campaigns/x/runs"), rpc("ListCampaignRuns", text(1, "x")), INVALID),
    Row("campaign of a word", get("/campaigns/x"), rpc("GetCampaign", text(1, "x")), INVALID),
    Row("campaign that is absent", get(f"/campaigns/{ABSENT}"), rpc("GetCampaign", text(1, ABSENT)),
        NO_CAMPAIGN),
    Row("artifact of a word", get("/artifacts/x"), Grpc(ARTIFACTS + "DownloadArtifact", text(1, "x")),
        INVALID),
    Row("artifact that is absent", get(f"/artifacts/{ABSENT}"),
        Grpc(ARTIFACTS + "DownloadArtifact", text(1, ABSENT)), NO_ARTIFACT),
    Row("new campaign with a word", post('{"id":"x"}', "/campaigns"), rpc("CreateCampaign", text(1, "x")),
        INVALID),
    Row("new campaign with an empty id", post('{"id":""}', "/campaigns"),
        rpc("CreateCampaign", text(1, "")), INVALID),
    Row("new campaign with a number", post('{"id":1}', "/campaigns"), None, INVALID),
    Row("attempt 0 of the steps", get(f"/runs/{COMPLETED}/steps?attempt=0"),
        rpc("ListRunSteps", text(1, COMPLETED) + integer(2, 0)), INVALID),
    Row("negative attempt of the steps", get(f"/runs/{COMPLETED}/steps?attempt=-1"),
        rpc("ListRunSteps", text(1, COMPLETED) + integer(2, -1)), INVALID),
]  # fmt: skip

STRINGS = [
    Row("workflow: empty", *workflow(""), INVALID),
    Row("workflow: unknown", *workflow("no such"), INVALID),
    Row("workflow: in another case", *workflow("Rejecting"), INVALID),
    Row("workflow: a space after it", *workflow("rejecting "), INVALID),
    Row("workflow: a homoglyph in it", *workflow("reject\u0456ng"), INVALID),
    Row("workflow: a zero-width space in it", *workflow("reject\u200bing"), INVALID),
    Row("workflow: decomposed", *workflow("re\u0301jecting"), INVALID),
    Row("workflow: NUL after it", *workflow("rejecting\0"), INVALID),
    Row("workflow: NUL alone", *workflow("\0"), INVALID),
    Row("workflow: SQL", *workflow("'; DROP TABLE runs; --"), INVALID),
    Row("workflow: a wildcard", *workflow("%"), INVALID),
    Row("workflow: fifteen thousand characters", *workflow("w" * 15_000), INVALID),
    Row("workflow: two hundred thousand characters", *workflow("w" * 200_000), INVALID),
    Row("workflow: twenty thousand rockets", *workflow("🚀" * 20_000), INVALID),
    Row("workflow: not UTF-8", post(b'{"workflowName":"\xff"}'), rpc("TriggerRun", text(1, b"\xff")),
        INVALID),
    Row("workflow: a surrogate in UTF-8", post(b'{"workflowName":"\xed\xa0\x80"}'),
        rpc("TriggerRun", text(1, b"\xed\xa0\x80")), INVALID),
    Row("workflow: a lone surrogate escaped", post(r'{"workflowName":"\ud800"}'), None, INVALID),
    Row("NUL as a value", *payload(r'"\u0000"', "\0"), INVALID),
    Row("NUL within a value", *payload(r'"a\u0000b"', "a\0b"), INVALID),
    Row("NUL as a key", *payload(r'{"\u0000":1}', {"\0": 1}), INVALID),
    Row("NUL within a key, far inside", *payload(r'[[{"a\u0000":1}]]', [[{"a\0": 1}]]), INVALID),
    Row("NUL in the context", *triggered(r'"context":{"x":"\u0000"}', trigger(context={"x": "\0"})), INVALID),
    Row("a value that is not UTF-8", *payload(b'"\xff"', b"\xff"), INVALID),
    Row("a value cut within a character", *payload(b'"\xf0\x9f\x9a"', b"\xf0\x9f\x9a"), INVALID),
    Row("an overlong NUL", *payload(b'"\xc0\x80"', b"\xc0\x80"), INVALID),
    Row("a surrogate pair in UTF-8", *payload(b'"\xed\xa0\xbd\xed\xba\x80"', b"\xed\xa0\xbd\xed\xba\x80"),
        INVALID),
    Row("a character beyond Unicode", *payload(b'"\xf4\x90\x80\x80"', b"\xf4\x90\x80\x80"), INVALID),
    Row("a lone continuation byte", *payload(b'"\x80"', b"\x80"), INVALID),
    Row("a key that is not UTF-8", *payload(b'{"\xff":1}', {b"\xff": 1}), INVALID),
    Row("a lone surrogate", *payload(r'"\ud800"', b"\xed\xa0\x80"), INVALID),
    Row("surrogates in the wrong order", *payload(r'"\ude80\ud83d"', b"\xed\xba\x80\xed\xa0\xbd"), INVALID),
    Row("a lone surrogate in a key", *payload(r'{"\udfff":1}', {b"\xed\xbf\xbf": 1}), INVALID),
    Row("a NaN under a key of fifty thousand characters",
        *payload('{"%s":NaN}' % ("k" * 50_000), {"k" * 50_000: float("nan")}), INVALID),
    Row("a hundred NaNs under long keys",
        *payload("{" + ",".join(f'"{n:03}{"k" * 1000}":NaN' for n in range(100)) + "}",
                 {f"{n:03}{'k' * 1000}": float("nan") for n in range(100)}), INVALID),
    Row("thirty thousand NULs under one key", *payload("[%s1]" % (r'"\u0000",' * 25_000), ["\0"] * 25_000),
        INVALID),
    Row("campaign in context: a word", *campaign_in_context("x"), INVALID),
    Row("campaign in context: empty", *campaign_in_context(""), INVALID),
    Row("campaign in context: a number", *campaign_in_context(1), INVALID),
    Row("campaign in context: null", *campaign_in_context(None), INVALID),
    Row("campaign in context: true", *campaign_in_context(True), INVALID),
    Row("campaign in context: an object", *campaign_in_context({}), INVALID),
    Row("campaign in context: a list", *campaign_in_context([ABSENT]), INVALID),
    Row("campaign in context: in braces", *campaign_in_context("{" + ABSENT + "}"), INVALID),
    Row("campaign in context: spaces about it", *campaign_in_context(f" {ABSENT} "), INVALID),
    Row("campaign in context: NUL after it", *campaign_in_context(ABSENT + "\0"), INVALID),
]  # fmt: skip


def _whole(body: bytes | str) -> Http:
    """A body that is wrong as a whole, on a path where it could write."""
    return post(body)


_GOOD = '{"workflowName":"rejecting"}'
_MANY_KEYS = "{" + ",".join(f'"{number}":0' for number in range(1001)) + "}"

STRUCTURE = [
    Row("no body", post(b""), None, INVALID),
    Row("spaces", _whole("   "), None, INVALID),
    Row("an array", _whole(f"[{_GOOD}]"), None, INVALID),
    Row("a string", _whole('"rejecting"'), None, INVALID),
    Row("a number", _whole("1"), None, INVALID),
    Row("null", _whole("null"), None, INVALID),
    Row("NaN as the body", _whole("NaN"), None, INVALID),
    Row("not closed", _whole(_GOOD[:-1]), None, INVALID),
    Row("closed twice", _whole(_GOOD + "}"), None, INVALID),
    Row("two objects", _whole(_GOOD + _GOOD), None, INVALID),
    Row("a trailing comma", _whole(_GOOD[:-1] + ",}"), None, INVALID),
    Row("a comment", _whole(_GOOD + "// so"), None, INVALID),
    Row("a comment within", _whole(_GOOD.replace(":", ":/**/")), None, INVALID),
    Row("single quotes", _whole(_GOOD.replace('"', "'")), None, INVALID),
    Row("bare keys", _whole("{workflowName:1}"), None, INVALID),
    Row("a form", _whole("workflowName=rejecting"), None, INVALID),
    Row("XML", _whole("<!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]><x>&y;</x>"), None, INVALID),
    Row("a byte order mark", _whole(b"\xef\xbb\xbf" + _GOOD.encode()), None, INVALID),
    Row("UTF-16 with a mark", _whole(_GOOD.encode("utf-16")), None, INVALID),
    Row("UTF-16, little end first", _whole(_GOOD.encode("utf-16-le")), None, INVALID),
    Row("UTF-16, big end first", _whole(_GOOD.encode("utf-16-be")), None, INVALID),
    Row("UTF-32", _whole(_GOOD.encode("utf-32")), None, INVALID),
    Row("UTF-7", _whole("+AHs-" + _GOOD[1:]), None, INVALID),
    Row("Latin-1", _whole('{"workflowName":"é"}'.encode("latin-1")), None, INVALID),
    Row("NUL between tokens", _whole(_GOOD.replace(":", ":\0")), None, INVALID),
    Row("a control character in a string", _whole('{"workflowName":"a\x01"}'), None, INVALID),
    Row("a newline in a string", _whole('{"workflowName":"a\n"}'), None, INVALID),
    Row("an escape that is none", _whole(r'{"workflowName":"\x41"}'), None, INVALID),
    Row("a key twice", _whole('{"workflowName":"rejecting","workflowName":"rejecting"}'), None, INVALID),
    Row("a key twice, once escaped", _whole(r'{"workflowName":"rejecting","\u0077orkflowName":"w"}'), None,
        INVALID),
    Row("a key twice, far inside", payload('[{"a":1,"a":1}]', None)[0], None, INVALID),
    Row("a key in proto's spelling", _whole('{"workflow_name":"rejecting"}'), None, INVALID),
    Row("a key in another case", _whole('{"WorkflowName":"rejecting"}'), None, INVALID),
    Row("a key that is unknown", triggered('"tenantId":"x"', b"")[0], None, INVALID),
    Row("an empty key", triggered('"":1', b"")[0], None, INVALID),
    Row("a prototype", triggered('"__proto__":{}', b"")[0], None, INVALID),
    Row("an operator", _whole('{"workflowName":{"$ne":null}}'), None, INVALID),
    Row("no workflow", _whole("{}"), rpc("TriggerRun", b""), INVALID),
    Row("every member null",
        _whole('{"workflowName":null,"triggerPayload":null,"context":null,"priority":null}'), None, INVALID),
    Row("workflow null", _whole('{"workflowName":null}'), None, INVALID),
    Row("workflow a number", _whole('{"workflowName":1}'), None, INVALID),
    Row("workflow a list", _whole('{"workflowName":["rejecting"]}'), None, INVALID),
    Row("payload a list", triggered('"triggerPayload":[]', b"")[0], None, INVALID),
    Row("payload a string", triggered('"triggerPayload":"{}"', b"")[0], None, INVALID),
    Row("payload a number", triggered('"triggerPayload":0', b"")[0], None, INVALID),
    Row("payload false", triggered('"triggerPayload":false', b"")[0], None, INVALID),
    Row("context a list", triggered('"context":[]', b"")[0], None, INVALID),
    Row("context a string", triggered('"context":"x"', b"")[0], None, INVALID),
    Row("a value without a kind", None, rpc("TriggerRun", trigger(payload={"x": NO_KIND})), INVALID),
    Row("an item without a kind", None, rpc("TriggerRun", trigger(payload={"x": [1, NO_KIND]})), INVALID),
    Row("a member without a value", None, rpc("TriggerRun", trigger(payload=text(1, text(1, "x")))), INVALID),
    Row("a Struct with a field that it has not", None,
        rpc("TriggerRun", trigger(payload=a_struct({"x": 1}) + text(15, "y" * 1000))), INVALID),
    Row("a Value with a field that it has not", None,
        rpc("TriggerRun", trigger(payload=text(1, text(1, "x") + text(2, text(3, "v") + text(9, "y"))))),
        INVALID),
    Row("payload one level too deep", *triggered('"triggerPayload":' + '{"a":' * 31 + "{}" + "}" * 31,
        trigger(payload=nested(32))), INVALID),
    Row("payload two levels too deep", *triggered('"triggerPayload":' + '{"a":' * 32 + "{}" + "}" * 32,
        trigger(payload=nested(33))), INVALID),
    Row("payload a hundred levels deep", *triggered('"triggerPayload":' + '{"a":' * 99 + "{}" + "}" * 99,
        trigger(payload=nested(100))), INVALID),
    Row("payload ten thousand levels deep", *triggered(
        '"triggerPayload":' + '{"a":' * 10_000 + "{}" + "}" * 10_000, trigger(payload=nested(10_000))),
        INVALID),
    Row("context one level too deep", *triggered('"context":' + '{"a":' * 31 + "{}" + "}" * 31,
        trigger(context=nested(32))), INVALID),
    Row("arrays one level too deep", *triggered('"triggerPayload":{"a":' + "[" * 31 + "]" * 31 + "}",
        trigger(payload=nested(32, 6))), INVALID),
    Row("arrays ten thousand levels deep", *triggered(
        '"triggerPayload":{"a":' + "[" * 10_000 + "]" * 10_000 + "}", trigger(payload=nested(10_001, 6))),
        INVALID),
    Row("two hundred thousand brackets", _whole("[" * 200_000), None, INVALID),
    Row("1,001 keys", *triggered('"triggerPayload":' + _MANY_KEYS,
        trigger(payload={f"{n}": 0 for n in range(1001)})), INVALID),
    Row("1,001 keys, further inside", *payload(
        f"[{_MANY_KEYS}]", [{f"{n}": 0 for n in range(1001)}]), INVALID),
    Row("1,001 keys of the body", _whole(_MANY_KEYS), None, INVALID),
    Row("257 KiB of text", *payload('"%s"' % ("x" * 263_000), "x" * 263_000), TOO_LARGE),
    Row("payload and context of 140 KiB each", *triggered(
        f'"triggerPayload":{{"x":"{"x" * 140_000}"}},"context":{{"x":"{"x" * 140_000}"}}',
        trigger({"x": "x" * 140_000}, {"x": "x" * 140_000})), TOO_LARGE),
    Row("257 KiB of spaces", _whole(_GOOD + " " * 263_000), None, TOO_LARGE),
    Row("257 KiB of keys", None,
        rpc("TriggerRun", trigger({f"{n:03}{'k' * 400}": 1 for n in range(660)})), TOO_LARGE),
    Row("a body where none is due", Http("GET", f"/runs/{ABSENT}", b'{"runId":"x"}',
        (("content-type", "application/json"),)), None, INVALID),
    Row("an array as a body where none is due", Http("DELETE", f"/runs/{COMPLETED}", b"[]",
        (("content-type", "application/json"),)), None, INVALID),
    Row("300 KiB where none is due", Http("GET", f"/runs/{ABSENT}", b" " * 300_000,
        (("content-type", "application/json"),)), None, TOO_LARGE),
]  # fmt: skip

_NAN, _INFINITY = float("nan"), float("inf")
_SIGNALLING_NAN = trigger(payload=text(1, text(1, "x") + text(2, b"\x11\x01\0\0\0\0\0\xf4\x7f")))
_NEGATIVE_NAN = trigger(payload=text(1, text(1, "x") + text(2, b"\x11\0\0\0\0\0\0\xf8\xff")))

NUMBERS = [
    Row("NaN", *payload("NaN", _NAN), INVALID),
    Row("a negative NaN", payload("-NaN", 0)[0], rpc("TriggerRun", _NEGATIVE_NAN), INVALID),
    Row("a signalling NaN", None, rpc("TriggerRun", _SIGNALLING_NAN), INVALID),
    Row("infinity", *payload("Infinity", _INFINITY), INVALID),
    Row("negative infinity", *payload("-Infinity", -_INFINITY), INVALID),
    Row("NaN in an array", *payload("[1,[NaN]]", [1, [_NAN]]), INVALID),
    Row("NaN in the context", *triggered('"context":{"x":NaN}', trigger(context={"x": _NAN})), INVALID),
    Row("2^53 + 1", payload("9007199254740993", 0)[0], None, INVALID),  # a double has none
    Row("2^53 + 2", *payload("9007199254740994", 2.0**53 + 2), INVALID),
    Row("-2^53 - 2", *payload("-9007199254740994", -(2.0**53) - 2), INVALID),
    Row("2^53 + 2 as a float", *payload("9007199254740994.0", 2.0**53 + 2), INVALID),
    Row("2^63", *payload("9223372036854775808", 2.0**63), INVALID),
    Row("1e300", *payload("1e300", 1e300), INVALID),
    Row("the greatest double", *payload("1.7976931348623157e308", 1.7976931348623157e308), INVALID),
    Row("1e400", payload("1e400", 0)[0], None, INVALID),
    Row("-1e400", payload("-1e400", 0)[0], None, INVALID),
    Row("ten thousand digits", payload("9" * 10_000, 0)[0], None, INVALID),
    Row("two hundred thousand digits", payload("9" * 200_000, 0)[0], None, INVALID),
    Row("an exponent of ten thousand digits", payload("1e" + "9" * 10_000, 0)[0], None, INVALID),
    Row("a leading zero", payload("01", 0)[0], None, INVALID),
    Row("a leading plus", payload("+1", 0)[0], None, INVALID),
    Row("a leading point", payload(".5", 0)[0], None, INVALID),
    Row("a trailing point", payload("1.", 0)[0], None, INVALID),
    Row("a minus alone", payload("-", 0)[0], None, INVALID),
    Row("an exponent alone", payload("1e", 0)[0], None, INVALID),
    Row("hexadecimal", payload("0x10", 0)[0], None, INVALID),
    Row("with an underscore", payload("1_000", 0)[0], None, INVALID),
    Row("with a comma", payload("1,000", 0)[0], None, INVALID),
    Row("Arabic", payload("٣", 0)[0], None, INVALID),
    Row("full-width", payload("１", 0)[0], None, INVALID),
    Row("a BigInt", payload("1n", 0)[0], None, INVALID),
    Row("undefined", payload("undefined", 0)[0], None, INVALID),
]  # fmt: skip

PAGING = [
    Row("limit 0", *page("limit=0", limit(0)), INVALID),
    Row("limit -1", *page("limit=-1", limit(-1)), INVALID),
    Row("limit 101", *page("limit=101", limit(101)), INVALID),
    Row("limit 2^31 - 1", *page("limit=2147483647", limit(2**31 - 1)), INVALID),
    Row("limit -2^31", *page("limit=-2147483648", limit(-(2**31))), INVALID),
    Row("limit 2^31", *page("limit=2147483648"), INVALID),
    Row("limit of four thousand digits", *page("limit=" + "1" * 4_000), INVALID),
    Row("limit 1e1", *page("limit=1e1"), INVALID),
    Row("limit 10.0", *page("limit=10.0"), INVALID),
    Row("limit 0x14", *page("limit=0x14"), INVALID),
    Row("limit in Arabic digits", *page("limit=٣"), INVALID),
    Row("limit in Arabic digits, escaped", *page("limit=%D9%A3"), INVALID),
    Row("limit in full-width digits", *page("limit=%EF%BC%91"), INVALID),
    Row("limit with a plus", *page("limit=%2B20"), INVALID),
    Row("limit with a space before", *page("limit=%2020"), INVALID),
    Row("limit with a space after", *page("limit=20+"), INVALID),
    Row("limit with a newline", *page("limit=20%0A"), INVALID),
    Row("limit with NUL", *page("limit=20%00"), INVALID),
    Row("limit with an underscore", *page("limit=2_0"), INVALID),
    Row("limit with a comma", *page("limit=2,0"), INVALID),
    Row("limit empty", *page("limit="), INVALID),
    Row("limit without a sign of equality", *page("limit"), INVALID),
    Row("limit NaN", *page("limit=NaN"), INVALID),
    Row("limit null", *page("limit=null"), INVALID),
    Row("limit twice, alike", *page("limit=20&limit=20"), INVALID),
    Row("limit twice, once escaped", *page("limit=20&%6cimit=21"), INVALID),
    Row("limit 0, its name escaped", *page("%6c%69mit=0"), INVALID),
    Row("limit as PHP has it", *page("limit[]=20"), INVALID),
    Row("limit in another case", *page("Limit=20"), INVALID),
    Row("offset -1", *page("offset=-1", offset(-1)), INVALID),
    Row("offset -2^31", *page("offset=-2147483648", offset(-(2**31))), INVALID),
    Row("offset 2^31", *page("offset=2147483648"), INVALID),
    Row("offset empty", *page("offset="), INVALID),
    Row("offset 1.5", *page("offset=1.5"), INVALID),
    Row("offset twice", *page("offset=0&offset=1"), INVALID),
    Row("limit and offset both wrong", *page("limit=0&offset=-1", limit(0), offset(-1)), INVALID),
    Row("status in upper case", *page("status=FAILED"), INVALID),
    Row("status in proto's spelling", *page("status=RUN_STATUS_FAILED"), INVALID),
    Row("status unspecified", *page("status=unspecified", status(0)), INVALID),
    Row("status unknown", *page("status=dead", status(6)), INVALID),
    Row("status of a step", *page("status=pending"), INVALID),
    Row("status negative", *page("status=-1", status(-1)), INVALID),
    Row("status 2^31 - 1", *page("status=2147483647", status(2**31 - 1)), INVALID),
    Row("status empty", *page("status="), INVALID),
    Row("status as a list", *page("status=failed,queued"), INVALID),
    Row("status with NUL", *page("status=failed%00"), INVALID),
    Row("status with a space", *page("status=failed%20"), INVALID),
    Row("one good status and one bad", *page("status=failed&status=dead", status(4), status(99)), INVALID),
    Row("five hundred bad statuses", *page("&".join(["status=dead"] * 500), *[status(99)] * 500), INVALID),
    Row("token: a word", *page("pageToken=x", page_token("x")), INVALID),
    Row("token: zeros", *page("pageToken=" + "A" * 44, page_token("A" * 44)), INVALID),
    Row("token: all ones", *page("pageToken=" + "_" * 44, page_token("_" * 44)), INVALID),
    Row("token: four thousand letters", *page("pageToken=" + "A" * 4_000, page_token("A" * 4_000)), INVALID),
    Row("token: not ASCII", *page("pageToken=%C3%BC", page_token("ü")), INVALID),
    Row("token: not UTF-8", *page("pageToken=%FF", page_token(b"\xff")), INVALID),
    Row("token: NUL", *page("pageToken=%00", page_token("\0")), INVALID),
    Row("token: twice", *page("pageToken=x&pageToken=x"), INVALID),
    Row("token: with an offset", *page("pageToken=x&offset=0", page_token("x"), offset(0)), INVALID),
    Row("an unknown parameter", *page("page=1"), INVALID),
    Row("a parameter of the path", *page("campaignId=x"), INVALID),
    Row("a tenant", *page("tenantId=x"), INVALID),
    Row("an empty name", *page("=1"), INVALID),
    Row("a semicolon between", *page("limit=20;offset=1"), INVALID),
    Row("a question mark more", *page("?limit=20"), INVALID),
    Row("an escape that is cut short", *page("limit=%"), INVALID),
    Row("an escape that is none", *page("limit=%zz"), INVALID),
    Row("a name that is not UTF-8", *page("%ff=1"), INVALID),
    Row("1,001 parameters", *page("&".join(["status=failed"] * 1001)), INVALID),
    Row("a parameter where there are none", get(f"/runs/{COMPLETED}?x=1"), None, INVALID),
    Row("a parameter beside a body", post(_GOOD, "/runs?dryRun=1"), None, INVALID),
]  # fmt: skip


def retry(run_id: str) -> tuple[Http, Grpc]:
    return Http("POST", f"/runs/{run_id}/retry"), rpc("RetryRun", text(1, run_id))


def cancel(run_id: str) -> tuple[Http, Grpc]:
    return Http("DELETE", f"/runs/{run_id}"), rpc("CancelRun", text(1, run_id))


def with_key(*keys: str) -> tuple[Http, Grpc]:
    """A trigger with these idempotency keys."""
    headers = tuple(("idempotency-key", key) for key in keys)
    rest = Http("POST", "/runs", _GOOD.encode(), (("content-type", "application/json"), *headers))
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
    Row("events of another tenant's run", get(f"/runs/{FOREIGN}/events"),
        rpc("ListRunEvents", text(1, FOREIGN)), NO_RUN),
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

_TWO_MIB = 2 * 1024 * 1024
_MANY = "x" * 100_000

GRPC_WIRE = [
    Row("random bytes", None, rpc("GetRun", bytes(range(255, 155, -1))), INVALID),
    Row("random bytes as a trigger", None, rpc("TriggerRun", b"\xff" * 100), INVALID),
    Row("random bytes as a list", None, rpc("ListCampaignRuns", b"\xff" * 100), INVALID),
    Row("random bytes as a download", None, Grpc(ARTIFACTS + "DownloadArtifact", b"\xff" * 100), INVALID),
    Row("JSON", None, rpc("TriggerRun", _GOOD.encode()), INVALID),
    Row("a message that is cut short", None, rpc("TriggerRun", trigger(payload={"x": "y" * 100})[:-50]),
        INVALID),
    Row("a length beyond the end", None, rpc("GetRun", varint(1 << 3 | 2) + varint(100) + b"x"), INVALID),
    Row("a length of 2^63", None, rpc("GetRun", varint(1 << 3 | 2) + varint(2**63)), INVALID),
    Row("a tag alone", None, rpc("GetRun", b"\x0a"), INVALID),
    Row("a tag of field 0", None, rpc("GetRun", b"\x00\x01"), INVALID),
    Row("a wire type that is none", None, rpc("GetRun", b"\x0f"), INVALID),
    Row("the end of a group", None, rpc("GetRun", b"\x0c"), INVALID),
    Row("a group without an end", None, rpc("GetRun", b"\x0b" * 1000), INVALID),
    Row("a varint of eleven bytes", None, rpc("ListCampaignRuns", b"\x18" + b"\xff" * 10 + b"\x01"), INVALID),
    Row("the id as a number", None, rpc("GetRun", integer(1, 1)), INVALID),
    Row("the payload as a number", None, rpc("TriggerRun", text(1, "no such") + integer(2, 1)), INVALID),
    Row("another message", None, rpc("GetRun", trigger(payload={"x": 1})), INVALID),
    Row("a Struct that is no Struct", None, rpc("TriggerRun", trigger(payload=b"\xff\xff")), INVALID),
    Row("a double of four bytes", None,
        rpc("TriggerRun", trigger(payload=text(1, text(1, "x") + text(2, b"\x11\0\0\0\0")))), INVALID),
    Row("an id of a megabyte", None, rpc("GetRun", text(1, "x" * 1_000_000)), INVALID),
    Row("a workflow of a megabyte", None, rpc("TriggerRun", text(1, "x" * 1_000_000)), INVALID),
    Row("a page token of a megabyte", None,
        rpc("ListCampaignRuns", text(1, ABSENT) + page_token("x" * 1_000_000)), INVALID),
    Row("a megabyte of text", None, rpc("TriggerRun", trigger(payload={"x": "y" * 1_000_000})), TOO_LARGE),
    Row("two hundred thousand bad statuses", None,
        rpc("ListCampaignRuns", text(1, ABSENT) + text(2, varint(99) * 200_000)), INVALID),
    Row("more than 2 MiB", None, rpc("TriggerRun", text(1, "x" * _TWO_MIB)), EXHAUSTED),
    Row("16 MiB", None, rpc("TriggerRun", text(1, "x" * 8 * _TWO_MIB)), EXHAUSTED),
    Row("16 MiB that were 16 KiB on the way", None,
        rpc("TriggerRun", text(1, "x" * 8 * _TWO_MIB), gzip=True), EXHAUSTED),
    Row("a method that is not there", None, rpc("DeleteEverything", b""), UNIMPLEMENTED),
    Row("a method in another case", None, rpc("getRun", b""), UNIMPLEMENTED),
    Row("a service that is not there", None, Grpc("/runengine.v2.RunService/GetRun", b""), UNIMPLEMENTED),
    Row("a service without its package", None, Grpc("/RunService/GetRun", b""), UNIMPLEMENTED),
    Row("a path that is no method", None, Grpc("/", b""), UNIMPLEMENTED),
    Row("a path of three parts", None, Grpc("/runengine.v1.RunService/GetRun/x", b""), UNIMPLEMENTED),
    Row("a REST path", None, Grpc(f"/runs/{ABSENT}", b""), UNIMPLEMENTED),
    Row("metadata of 20 KiB", None, rpc("GetRun", text(1, "x"), metadata=(("x", "y" * 20_000),)), EXHAUSTED),
    Row("metadata of 20 KiB in a thousand pieces", None,
        rpc("GetRun", text(1, "x"), metadata=tuple((f"x{n}", "y") for n in range(1000))), EXHAUSTED),
    Row("binary metadata", None,
        rpc("GetRun", text(1, "x"), metadata=(("x-bin", bytes(range(256))),)), INVALID),
    Row("a trace that is none", None,
        rpc("GetRun", text(1, "x"), metadata=(("traceparent", "x" * 100), ("traceparent", "y"))), INVALID),
    Row("a deadline of its own", None,
        rpc("GetRun", text(1, "x"), metadata=(("x-deadline", "-1"), ("x-tenant-id", "other"))), INVALID),
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


class Raw(NamedTuple):
    """Bytes for one HTTP connection, and status and reason of every answer that they get."""

    name: str
    sent: bytes
    answers: list[tuple[int, str]]


def request(line: str, *fields: str, body: str = "", host: bool = True) -> bytes:
    """A request with a good token, the last on its connection."""
    lines = [line, *(["host: x"] if host else []), "authorization: Bearer @TOKEN@", *fields]
    return "\r\n".join([*lines, "connection: close", "", body]).encode()


_GET = f"GET /runs/{ABSENT} HTTP/1.1"
_POST = "POST /runs HTTP/1.1"
_JSON = "content-type: application/json"
_CHUNKED = "transfer-encoding: chunked"
_SMUGGLED = f"GET /runs/{COMPLETED} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer @TOKEN@\r\n\r\n"
_BAD = [(400, "INVALID_ARGUMENT")]
_NOT_FOUND = [(404, "NOT_FOUND")]
_RUN_NOT_FOUND = [(404, "RUN_NOT_FOUND")]
_HEAD_TOO_LARGE = [(431, "HEADERS_TOO_LARGE")]
_UNSUPPORTED = [(415, "UNSUPPORTED_MEDIA_TYPE")]

HTTP_WIRE = [
    Raw("random bytes", bytes(range(255, 155, -1)) + b"\r\n\r\n", _BAD),
    Raw("a TLS hello", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\0" * 500, _BAD),
    Raw("HTTP/0.9", b"GET /runs\r\n\r\n", _BAD),
    Raw("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", _BAD),
    Raw("HTTP/1.2", request(_GET.replace("1.1", "1.2")), _BAD),
    Raw("HTTP/3.0", request(_GET.replace("1.1", "3.0")), _BAD),
    Raw("HTTP in lower case", request(_GET.replace("HTTP", "http")), _BAD),
    Raw("a method that is none", request(_GET.replace("GET", "G(T")), _BAD),
    Raw("a method in lower case", request(_GET.replace("GET", "get")), _BAD),
    Raw("a method of a thousand letters", request(_GET.replace("GET", "G" * 1000)), _BAD),
    Raw("two spaces in the line", request(_GET.replace(" /", "  /")), _RUN_NOT_FOUND),
    Raw("a tab in the line", request(_GET.replace(" /", "\t/")), _BAD),
    Raw("a space in the target", request(_GET.replace(ABSENT, "a b")), _BAD),
    Raw("NUL in the target", request(_GET.replace(ABSENT, "a\0b")), _BAD),
    Raw("a control character in the target", request(_GET.replace(ABSENT, "a\x01b")), _BAD),
    Raw("UTF-8 in the target", request(_GET.replace(ABSENT, "ü")), _BAD),
    Raw("a target without a slash", request(_GET.replace("/runs", "runs")), _BAD),
    Raw("a fragment in the target", request(_GET.replace(ABSENT, ABSENT + "#x")), _RUN_NOT_FOUND),
    Raw("an absolute target", request(_GET.replace("/runs", "http://other/runs")), _RUN_NOT_FOUND),
    Raw("an absolute target of another scheme", request(_GET.replace("/runs", "ftp://other/runs")),
        _RUN_NOT_FOUND),
    Raw("an absolute target without a path", request("GET http://other HTTP/1.1"), _BAD),
    Raw("an absolute target with a port that is none", request("GET http://x:99999/runs HTTP/1.1"), _BAD),
    Raw("an authority as the target", request("GET other:443 HTTP/1.1"), _BAD),
    Raw("CONNECT", request("CONNECT other:443 HTTP/1.1"), _BAD),
    Raw("an asterisk as the target", request("OPTIONS * HTTP/1.1"), _NOT_FOUND),
    Raw("TRACE", request(_GET.replace("GET", "TRACE")), [(405, "METHOD_NOT_ALLOWED")]),
    Raw("PUT", request(_GET.replace("GET", "PUT")), [(405, "METHOD_NOT_ALLOWED")]),
    Raw("a method of WebDAV", request(_GET.replace("GET", "PROPFIND")), [(405, "METHOD_NOT_ALLOWED")]),
    Raw("a method that an override asks for", request("GET /runs HTTP/1.1", "x-http-method-override: POST"),
        [(405, "METHOD_NOT_ALLOWED")]),
    Raw("dots in the path", request("GET /runs/../runs HTTP/1.1"), _NOT_FOUND),
    Raw("dots in the path, escaped", request("GET /runs/%2e%2e/runs HTTP/1.1"), _NOT_FOUND),
    Raw("dots as the id", request("GET /runs/%2e%2e HTTP/1.1"), _NOT_FOUND),
    Raw("an escaped slash in the id", request("GET /runs/a%2fb HTTP/1.1"), _BAD),
    Raw("an escaped slash in the path", request(f"GET /runs%2f{ABSENT} HTTP/1.1"), _NOT_FOUND),
    Raw("an escaped NUL in the id", request("GET /runs/%00 HTTP/1.1"), _BAD),
    Raw("an escape that is none in the id", request("GET /runs/%zz HTTP/1.1"), _BAD),
    Raw("an escaped newline in the id", request("GET /runs/a%0d%0ax:%20y HTTP/1.1"), _BAD),
    Raw("backslashes", request("GET \\runs\\x HTTP/1.1"), _BAD),
    Raw("two slashes", request(f"GET //runs/{ABSENT} HTTP/1.1"), _NOT_FOUND),
    Raw("a slash at the end", request(f"GET /runs/{ABSENT}/ HTTP/1.1"), _NOT_FOUND),
    Raw("a path parameter", request("GET /runs;v=1/x HTTP/1.1"), _NOT_FOUND),
    Raw("a path that is not there", request("GET /admin HTTP/1.1"), _NOT_FOUND),
    Raw("a file of the machine", request("GET /..%2f..%2fetc%2fpasswd HTTP/1.1"), _NOT_FOUND),
    Raw("a target of 20 KB", request("GET /runs/" + "a" * 20_000 + " HTTP/1.1"), _BAD),
    Raw("a target of 70 KB", request("GET /" + "a" * 70_000 + " HTTP/1.1"), _HEAD_TOO_LARGE),
    Raw("a query of 70 KB", request(f"GET /runs/{ABSENT}?{_MANY} HTTP/1.1"), _HEAD_TOO_LARGE),
    Raw("a header of 70 KB", request(_GET, "x: " + "y" * 70_000), _HEAD_TOO_LARGE),
    Raw("a header's name of 70 KB", request(_GET, "x" * 70_000 + ": y"), _HEAD_TOO_LARGE),
    Raw("two hundred headers", request(_GET, *["x: y"] * 200), _HEAD_TOO_LARGE),
    Raw("ten thousand headers", request(_GET, *["x: y"] * 10_000), _HEAD_TOO_LARGE),
    Raw("a hundred thousand empty lines", b"\r\n" * 100_000 + request(_GET), _HEAD_TOO_LARGE),
    Raw("a line without an end", b"GET /" + b"a" * 300_000, _HEAD_TOO_LARGE),
    Raw("no host", request(_GET, host=False), _BAD),
    Raw("two hosts", request(_GET, "host: y"), _BAD),
    Raw("NUL in a header", request(_GET, "x: a\0b"), _BAD),
    Raw("NUL in a header's name", request(_GET, "x\0: y"), _BAD),
    Raw("a carriage return in a header", request(_GET, "x: a\rb"), _BAD),
    Raw("a header without a colon", request(_GET, "x"), _BAD),
    Raw("a header without a name", request(_GET, ": x"), _BAD),
    Raw("a space before the colon", request(_GET, "x : y"), _BAD),
    Raw("a header that is folded", request(_GET, "x: y", " z"), _BAD),
    Raw("a first header that is folded", request(_GET + "\r\n x: y"), _BAD),
    Raw("bare line feeds", request(_GET).replace(b"\r\n", b"\n"), _BAD),
    Raw("a bare line feed within a header", request(_GET, "x: y\nz: a"), _BAD),
    Raw("bare carriage returns", request(_GET).replace(b"\r\n", b"\r") + b"\n\n", _BAD),
    Raw("length and chunks",
        request(_POST, _JSON, "content-length: 4", _CHUNKED, body="0\r\n\r\n" + _SMUGGLED),
        _BAD),
    Raw("chunks and length",
        request(_POST, _JSON, _CHUNKED, "content-length: 4", body="0\r\n\r\n" + _SMUGGLED),
        _BAD),
    Raw("two lengths, alike",
        request(_POST, _JSON, "content-length: 2", "content-length: 2", body="{}"), _BAD),
    Raw("two lengths that differ",
        request(_POST, _JSON, "content-length: 2", "content-length: 0", body="{}" + _SMUGGLED), _BAD),
    Raw("two lengths in one header", request(_POST, _JSON, "content-length: 2, 2", body="{}"), _BAD),
    Raw("a negative length", request(_POST, _JSON, "content-length: -1", body="{}"), _BAD),
    Raw("a length with a plus", request(_POST, _JSON, "content-length: +2", body="{}"), _BAD),
    Raw("a length in hexadecimal", request(_POST, _JSON, "content-length: 0x2", body="{}"), _BAD),
    Raw("a length with a space", request(_POST, _JSON, "content-length: 1 2", body="{}"), _BAD),
    Raw("a length of thirty digits", request(_POST, _JSON, "content-length: " + "9" * 30), _BAD),
    Raw("an empty length", request(_POST, _JSON, "content-length:", body="{}"), _BAD),
    Raw("a length of a terabyte", request(_POST, _JSON, "content-length: 1000000000000"),
        [(413, "PAYLOAD_TOO_LARGE")]),
    Raw("a size that is none", request(_POST, _JSON, _CHUNKED, body="x\r\n{}\r\n0\r\n\r\n"), _BAD),
    Raw("a negative size", request(_POST, _JSON, _CHUNKED, body="-2\r\n{}\r\n0\r\n\r\n"), _BAD),
    Raw("a size beyond 2^64", request(_POST, _JSON, _CHUNKED, body="f" * 17 + "\r\n{}\r\n0\r\n\r\n"), _BAD),
    Raw("a size in 0x", request(_POST, _JSON, _CHUNKED, body="0x2\r\n{}\r\n0\r\n\r\n"), _BAD),
    Raw("a size with a space", request(_POST, _JSON, _CHUNKED, body="2 \r\n{}\r\n0\r\n\r\n"), _BAD),
    Raw("a chunk longer than its size", request(_POST, _JSON, _CHUNKED, body="1\r\n{}\r\n0\r\n\r\n"), _BAD),
    Raw("chunks with bare line feeds", request(_POST, _JSON, _CHUNKED, body="2\n{}\n0\n\n"), _BAD),
    Raw("a chunk's extension of 70 KB",
        request(_POST, _JSON, _CHUNKED, body=f"2;x={'y' * 70_000}\r\n{{}}\r\n0\r\n\r\n"), _HEAD_TOO_LARGE),
    Raw("trailers of 70 KB",
        request(_POST, _JSON, _CHUNKED, body=f"2\r\n{{}}\r\n0\r\nx: {'y' * 70_000}\r\n\r\n"),
        _HEAD_TOO_LARGE),
    Raw("a token in the trailers",
        (f"{_POST}\r\nhost: x\r\n{_JSON}\r\n{_CHUNKED}\r\nconnection: close\r\n\r\n"
         f"2\r\n{{}}\r\n0\r\nauthorization: Bearer @TOKEN@\r\n\r\n").encode(), [(401, "UNAUTHENTICATED")]),
    Raw("a second token in the trailers",
        request(_POST, _JSON, _CHUNKED, body="2\r\n{}\r\n0\r\nauthorization: Bearer x\r\n\r\n"), _BAD),
    Raw("an encoding that is none",
        request(_POST, _JSON, "transfer-encoding: xchunked", body="0\r\n\r\n"), _BAD),
    Raw("chunks within chunks",
        request(_POST, _JSON, "transfer-encoding: chunked, chunked", body="0\r\n\r\n" + _SMUGGLED), _BAD),
    Raw("chunks that are not last",
        request(_POST, _JSON, "transfer-encoding: chunked, identity", body="0\r\n\r\n"), _BAD),
    Raw("chunks that a space hides", request(_POST, _JSON, "transfer-encoding : chunked", body="0\r\n\r\n"),
        _BAD),
    Raw("chunks that a tab hides",
        request(_POST, _JSON, "transfer-encoding: \x0bchunked", body="0\r\n\r\n" + _SMUGGLED), _BAD),
    Raw("a request after the last", request(_GET) + _SMUGGLED.encode(), _RUN_NOT_FOUND),
    Raw("an upgrade to h2c", request(_GET, "upgrade: h2c", "connection: upgrade") + _SMUGGLED.encode(),
        _RUN_NOT_FOUND),
    Raw("an upgrade to a web socket", request(_GET, "upgrade: websocket", "sec-websocket-version: 13",
        "connection: upgrade"), _RUN_NOT_FOUND),
    Raw("an expectation that is none", request(_GET, "expect: miracles"), _RUN_NOT_FOUND),
    Raw("a form", request(_POST, "content-type: application/x-www-form-urlencoded", "content-length: 2",
        body="{}"), _UNSUPPORTED),
    Raw("no content type", request(_POST, "content-length: 2", body="{}"), _UNSUPPORTED),
    Raw("two content types", request(_POST, _JSON, _JSON, "content-length: 2", body="{}"), _UNSUPPORTED),
    Raw("JSON in UTF-16", request(_POST, _JSON + '; profile=x; CHARSET="utf-16"', "content-length: 2",
        body="{}"), _UNSUPPORTED),
    Raw("no body", request(_POST), _BAD),
    Raw("an empty body of some type", request(_POST, "content-type: text/plain", "content-length: 0"), _BAD),
    Raw("an empty body in chunks", request(_POST, _CHUNKED, body="0\r\n\r\n"), _BAD),
    Raw("JSON in Latin-1", request(_POST, _JSON + "; charset=latin-1", "content-length: 2", body="{}"),
        _UNSUPPORTED),
    Raw("gzip",
        request(_POST, _JSON, "content-encoding: gzip", "content-length: 2", body="{}"), _UNSUPPORTED),
    Raw("a good request and then nonsense", request(_GET).replace(b"connection: close\r\n", b"")
        + b"\xff\xff\r\n\r\n", _RUN_NOT_FOUND),
    Raw("two good requests and a smuggled third", request(_GET).replace(b"connection: close\r\n", b"") * 2
        + request(_POST, _JSON, "content-length: 2", _CHUNKED, body="0\r\n\r\n"), _RUN_NOT_FOUND * 2),
]  # fmt: skip

_HTTP_2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# What the port of gRPC may be sent by who takes it for another, or breaks HTTP/2 on purpose.
NO_GRPC = {
    "an HTTP/1.1 request": request(_GET),
    "random bytes": bytes(range(255, 155, -1)) * 10,
    "a TLS hello": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\0" * 500,
    "a frame of 16 MiB": _HTTP_2 + b"\0\0\0\x04\0\0\0\0\0" + b"\xff\xff\xff\0\0\0\0\0\x01" + b"x" * 100_000,
    "headers that do not unpack": _HTTP_2
    + b"\0\0\0\x04\0\0\0\0\0"
    + b"\0\0\x04\x01\x05\0\0\0\x01\xff\xff\xff\xff",
    "settings of a wrong length": _HTTP_2 + b"\0\0\x05\x04\0\0\0\0\0xxxxx",
    "a continuation of nothing": _HTTP_2 + b"\0\0\0\x04\0\0\0\0\0" + b"\0\0\x01\x09\x04\0\0\0\x01x",
}

CATEGORIES = {
    "ids": IDS,
    "strings and Unicode": STRINGS,
    "the structure of JSON": STRUCTURE,
    "numbers": NUMBERS,
    "paging": PAGING,
    "misuse of states": STATE,
    "tokens": TOKENS,
    "gRPC's wire": GRPC_WIRE,
}
