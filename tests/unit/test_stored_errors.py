"""Errors that a handler of the graph takes, as they come back from the store."""

from __future__ import annotations

import ormsgpack
import pytest
from runengine_server.worker.graph.stored_values import SERIALISER, dump_error

made = list[str]()


class Refused(Exception):
    """With arguments, and an attribute."""

    def __init__(self, reason: str, code: int) -> None:
        super().__init__(reason, code)
        self.code = code


class Innocent:
    """What is no error."""

    def __init__(self, word: str) -> None:
        made.append(word)


def test_an_error_comes_back_with_its_type_arguments_and_attributes() -> None:
    found = SERIALISER.loads_typed(dump_error(Refused("Not today.", 7)))
    assert (type(found), found.args, found.code) == (Refused, ("Not today.", 7), 7)


@pytest.mark.parametrize("name", ["Innocent", "made.append"])
def test_nothing_but_an_error_is_made_of_what_is_stored_as_one(name: str) -> None:
    stored = SERIALISER.dumps_typed((__name__, name, ["called"], {}))[1]
    assert SERIALISER.loads_typed(("msgpack", ormsgpack.packb(ormsgpack.Ext(100, stored)))) is None
    assert made == []
