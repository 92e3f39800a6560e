"""What a run cannot be resumed with, and runs that cannot be resumed."""

from __future__ import annotations

from tests.support.bad_input.proto_wire import NO_KIND, Wire, a_value, nested, text
from tests.support.bad_input.rows import (
    ABSENT,
    CAMPAIGN,
    COMPLETED,
    FAILED,
    FOREIGN,
    INVALID,
    NO_RUN,
    NOT_WAITING,
    RUNNING,
    TOO_LARGE,
    Grpc,
    Http,
    Row,
    post,
    rpc,
)


def resume(body: str | bytes, *fields: bytes, run_id: str = RUNNING) -> tuple[Http, Grpc]:
    """ResumeRun with this body, and with these fields besides the id."""
    return post(body, f"/runs/{run_id}/resume"), rpc("ResumeRun", text(1, run_id) + b"".join(fields))


def _value(value: Wire) -> bytes:
    """Field `value`."""
    return text(2, a_value(value))


def _values(members: dict[str | bytes, Wire]) -> bytes:
    """Field `values`."""
    return b"".join(text(3, text(1, key) + text(2, a_value(value))) for key, value in members.items())


def one(json_text: str | bytes, value: Wire) -> tuple[Http, Grpc]:
    raw = json_text.encode() if isinstance(json_text, str) else json_text
    return resume(b'{"value":' + raw + b"}", _value(value))


def by_id(json_text: str | bytes, members: dict[str | bytes, Wire]) -> tuple[Http, Grpc]:
    raw = json_text.encode() if isinstance(json_text, str) else json_text
    return resume(b'{"values":' + raw + b"}", _values(members))


def true(run_id: str) -> tuple[Http, Grpc]:
    """ResumeRun of this run with a good value."""
    return resume('{"value":true}', _value(True), run_id=run_id)


_KEYS = "{" + ",".join(f'"{number}":0' for number in range(1001)) + "}"
_NAN = float("nan")

RESUMES = [
    Row("no body", *resume(""), INVALID),
    Row("neither", *resume("{}"), INVALID),
    Row("values null", resume('{"values":null}')[0], None, INVALID),
    Row("values empty", resume('{"values":{}}')[0], None, INVALID),
    Row("values a list", resume('{"values":[true]}')[0], None, INVALID),
    Row("values a string", resume('{"values":"x"}')[0], None, INVALID),
    Row("both", *resume('{"value":null,"values":{"x":null}}', _value(None), _values({"x": None})), INVALID),
    Row("the id in the body", resume(f'{{"value":1,"runId":"{RUNNING}"}}')[0], None, INVALID),
    Row("a value beside", resume('{"value":1,"resume":1}')[0], None, INVALID),
    Row("a value without a kind", None, resume("", _value(NO_KIND))[1], INVALID),
    Row("an item without a kind", None, resume("", _value([1, NO_KIND]))[1], INVALID),
    Row("a value under an id without a kind", None, resume("", _values({"x": NO_KIND}))[1], INVALID),
    Row("an id without a value", None, resume("", text(3, text(1, "x")))[1], INVALID),
    Row("a value with a field that it has not", None,
        resume("", text(2, text(3, "v") + text(9, "y")))[1], INVALID),
    Row("a value that does not parse", None, resume("", text(2, b"\x08"))[1], INVALID),
    Row("NaN", *one("NaN", _NAN), INVALID),
    Row("infinity, far inside", *one('[{"a":[Infinity]}]', [{"a": [float("inf")]}]), INVALID),
    Row("2^53 + 2", *one("9007199254740994", 2.0**53 + 2), INVALID),
    Row("-1e300 under an id", *by_id('{"x":-1e300}', {"x": -1e300}), INVALID),
    Row("NUL", *one(r'"\u0000"', "\0"), INVALID),
    Row("NUL in a key", *one(r'{"a\u0000":1}', {"a\0": 1}), INVALID),
    Row("NUL in an id", *by_id(r'{"a\u0000":1}', {"a\0": 1}), INVALID),
    Row("a lone surrogate", *one(r'"\ud800"', b"\xed\xa0\x80"), INVALID),
    Row("an id that is not UTF-8", *by_id(b'{"\xff":1}', {b"\xff": 1}), INVALID),
    Row("an id twice", by_id('{"x":1,"x":2}', {})[0], None, INVALID),
    Row("a key twice in a value", one('{"x":1,"x":2}', None)[0], None, INVALID),
    Row("a value one level too deep",
        *resume('{"value":' + '{"a":' * 31 + "{}" + "}" * 32, text(2, text(5, nested(32)))), INVALID),
    Row("arrays one level too deep", one("[" * 32 + "]" * 32, None)[0], None, INVALID),
    Row("a value under an id one level too deep", *resume('{"values":{"x":' + '{"a":' * 30 + "{}" + "}" * 32,
        text(3, text(1, "x") + text(2, text(5, nested(31))))), INVALID),
    Row("a value ten thousand levels deep",
        *resume('{"value":' + '{"a":' * 9_999 + "{}" + "}" * 10_000, text(2, text(5, nested(10_000)))),
        INVALID),
    Row("1,001 keys", *one(_KEYS, {f"{n}": 0 for n in range(1001)}), INVALID),
    Row("1,001 ids", *by_id(_KEYS, {f"{n}": 0 for n in range(1001)}), INVALID),
    Row("257 KiB of text", *one('"%s"' % ("x" * 263_000), "x" * 263_000), TOO_LARGE),
    Row("140 KiB under each of two ids", *by_id(f'{{"x":"{"x" * 140_000}","y":"{"y" * 140_000}"}}',
        {"x": "x" * 140_000, "y": "y" * 140_000}), TOO_LARGE),
    Row("a word", *true("x"), INVALID),
    Row("a word, and neither", *resume("{}", run_id="x"), INVALID),
    Row("a run that is running", *true(RUNNING), NOT_WAITING),
    Row("a run that is running, by an id", *by_id('{"x":true}', {"x": True}), NOT_WAITING),
    Row("a completed run", *true(COMPLETED), NOT_WAITING),
    Row("a failed run", *true(FAILED), NOT_WAITING),
    Row("an absent run", *true(ABSENT), NO_RUN),
    Row("another tenant's run", *true(FOREIGN), NO_RUN),
    Row("a campaign", *true(CAMPAIGN), NO_RUN),
]  # fmt: skip
