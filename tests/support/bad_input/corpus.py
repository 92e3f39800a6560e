"""Bad input, and what each piece of it has to be answered with: the tables by category."""

from __future__ import annotations

from tests.support.bad_input.grpc_wire import GRPC_WIRE
from tests.support.bad_input.ids import IDS
from tests.support.bad_input.json_structure import STRUCTURE
from tests.support.bad_input.numbers_and_pages import NUMBERS, PAGING
from tests.support.bad_input.resumes import RESUMES
from tests.support.bad_input.states_and_tokens import STATE, TOKENS
from tests.support.bad_input.strings import STRINGS

CATEGORIES = {
    "ids": IDS,
    "strings and Unicode": STRINGS,
    "the structure of JSON": STRUCTURE,
    "numbers": NUMBERS,
    "paging": PAGING,
    "misuse of states": STATE,
    "resumes": RESUMES,
    "tokens": TOKENS,
    "gRPC's wire": GRPC_WIRE,
}
