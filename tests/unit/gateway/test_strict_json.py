"""The bounds of a JSON body (contract: Bounds)."""

import time

import pytest
from runengine_gateway.strict_json import INVALID, parse_object


def nested(depth: int) -> bytes:
    """A body whose innermost object is at this depth; the body itself is 1."""
    return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)


@pytest.mark.parametrize(
    ("raw", "members"),
    [
        (b"{}", {}),
        (b' \r\n\t{ "a" : [ 1 , -2.5e3 , true , null , "x" ] } \n', {"a": [1, -2500.0, True, None, "x"]}),
        ('{"ü":"\\u00fc 🚀 \\ud83d\\ude80"}'.encode(), {"ü": "ü 🚀 🚀"}),
        (b'{"a":9007199254740992,"b":-9007199254740992}', {"a": 2**53, "b": -(2**53)}),
        (b'{"a":9007199254740992.0,"b":1e-999}', {"a": 2.0**53, "b": 0.0}),
        (b'{"a":{"x":1},"b":{"x":1}}', {"a": {"x": 1}, "b": {"x": 1}}),
    ],
)  # fmt: skip
def test_good_json_is_parsed(raw: bytes, members: dict[str, object]) -> None:
    assert parse_object(raw) == (members, [])


@pytest.mark.parametrize(
    ("raw", "description"),
    [
        (b"", "is not JSON at line 1, column 1"),
        (b"{", "is not JSON at line 1, column 2"),
        (b'{"a":1}x', "is not JSON at line 1, column 8"),
        (b'{"a":1}{}', "is not JSON at line 1, column 8"),
        (b'{"a":\n01}', "is not JSON at line 2, column 2"),
        (b"{'a':1}", "is not JSON at line 1, column 2"),
        (b'{"a":"\x01"}', "is not JSON at line 1, column 7"),
        (b'{"a":"\\x"}', "is not JSON at line 1, column 7"),
        (b'{"a":+1}', "is not JSON at line 1, column 6"),
        (b'{"a":.5}', "is not JSON at line 1, column 6"),
        (b'{"a":1}//', "is not JSON at line 1, column 8"),
        (b'{"a":nan}', "is not JSON at line 1, column 6"),
        (b"\xef\xbb\xbf{}", "starts with a byte order mark"),
        (b'{"a":"\xff"}', "is not UTF-8 at byte 6"),
        (b'{"a":"\xed\xa0\x80"}', "is not UTF-8 at byte 6"),
        (b'{"a":"\xc0\x80"}', "is not UTF-8 at byte 6"),
        (b"{\x00}", "is not JSON at line 1, column 2"),
        ("{}".encode("utf-16-be"), "is not JSON at line 1, column 1"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b"NaN", "must be a JSON object"),
        (b"1", "must be a JSON object"),
    ],
)
def test_a_body_that_is_no_json_object_is_a_violation(raw: bytes, description: str) -> None:
    assert parse_object(raw) == ({}, [("body", description)])


def test_a_trailing_comma_is_refused() -> None:
    [violation] = parse_object(b'{"a":1,}').violations
    assert violation.description.startswith("is not JSON at line 1, column ")  # which one, Pythons disagree


@pytest.mark.parametrize(
    ("raw", "field", "description"),
    [
        (b'{"a":NaN}', "a", "is NaN, which is not JSON"),
        (b'{"a":[1,{"b":-Infinity}]}', "a[1].b", "is -Infinity, which is not JSON"),
        (b'{"a":1e999}', "a", "is a number too large for a double"),
        (b'{"a":[[-1e400]]}', "a[0][0]", "is a number too large for a double"),
        (b'{"a":9007199254740993}', "a", "is an integer beyond ±2^53 (±9007199254740992)"),
        (b'{"a":-9007199254740993}', "a", "is an integer beyond ±2^53 (±9007199254740992)"),
        (b'{"a":9007199254740994.0}', "a", "is an integer beyond ±2^53 (±9007199254740992)"),
        (b'{"a":-1e300}', "a", "is an integer beyond ±2^53 (±9007199254740992)"),
        (b'{"a":' + b"9" * 200_000 + b"}", "a", "is an integer beyond ±2^53 (±9007199254740992)"),
        (b'{"a":{"b":"x\\u0000"}}', "a.b", "contains \\u0000"),
        (b'{"a":{"b\\u0000":1}}', 'a["b\\u0000"]', "is a key that contains \\u0000"),
        (b'{"\\u0000":1}', '["\\u0000"]', "is a key that contains \\u0000"),
        (b'{"a":"\\ud800"}', "a", "contains a lone surrogate"),
        (b'{"a":"\\ude80\\ud83d"}', "a", "contains a lone surrogate"),
        (b'{"a":{"\\udfff":1}}', 'a["\\udfff"]', "is a key that contains a lone surrogate"),
        (b'{"a":1,"a":1}', "a", "is given more than once"),
        (b'{"a":1,"\\u0061":2}', "a", "is given more than once"),
        (b'{"a":[{"b c":1,"b\\u0020c":2,"b c":3}]}', 'a[0]["b c"]', "is given more than once"),
        (b'{"items":[0,0,0,{"price":NaN}]}', "items[3].price", "is NaN, which is not JSON"),
    ],
)
def test_a_broken_bound_is_reported_with_its_path(raw: bytes, field: str, description: str) -> None:
    assert parse_object(raw).violations == [(field, description)]


def test_every_violation_is_reported_at_once() -> None:
    raw = b'{"a":NaN,"b":[1e999,"\\u0000"],"c":{"d":1,"d":2},"e":1}'
    parsed = parse_object(raw)
    assert [violation.field for violation in parsed.violations] == ["a", "b[0]", "b[1]", "c.d"]
    assert parsed.members == {"a": INVALID, "b": INVALID, "c": INVALID, "e": 1}


def test_no_more_than_a_hundred_violations_are_reported() -> None:
    parsed = parse_object(b'{"a":[' + b",".join([b"NaN"] * 60_000) + b'],"b":NaN}')
    assert len(parsed.violations) == 100
    assert parsed.members == {"a": INVALID, "b": INVALID}


def test_nesting_may_be_32_deep_and_no_deeper() -> None:
    assert parse_object(nested(32)).violations == []
    path = ".".join("a" * 32)
    assert parse_object(nested(33)).violations == [(path, "is nested deeper than 32")]


def test_arrays_count_as_nesting_too() -> None:
    assert parse_object(b'{"a":' + b"[" * 31 + b"]" * 31 + b"}").violations == []
    assert len(parse_object(b'{"a":' + b"[" * 32 + b"]" * 32 + b"}").violations) == 1


@pytest.mark.parametrize(
    "raw",
    [b"[" * 100_000, b'{"a":' * 40_000, b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", nested(900)],
)
def test_absurd_nesting_is_refused_quickly(raw: bytes) -> None:
    start = time.thread_time()
    [violation] = parse_object(raw).violations
    assert violation.description == "is nested deeper than 32"
    assert time.thread_time() - start < 1


def test_an_object_may_have_1000_keys_and_no_more() -> None:
    def with_keys(count: int) -> bytes:
        return b'{"a":{' + b",".join(b'"%d":0' % number for number in range(count)) + b"}}"

    assert parse_object(with_keys(1000)).violations == []
    assert parse_object(with_keys(1001)).violations == [("a", "has more than 1000 keys")]


def test_a_body_with_too_many_keys_is_refused_as_a_whole() -> None:
    raw = b"{" + b",".join(b'"%d":0' % number for number in range(1001)) + b"}"
    assert parse_object(raw).violations == [("body", "has more than 1000 keys")]


def test_a_path_is_short_and_ascii_whatever_the_keys_are() -> None:
    [violation] = parse_object('{"ü{}":NaN}'.replace("{}", "x" * 1000).encode()).violations
    assert violation.field.isascii()
    assert len(violation.field) < 80
