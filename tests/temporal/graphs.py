"""Workflows that only the workers of these tests serve."""

from __future__ import annotations

from tests.support.chains import chain_of
from tests.support.graphs import GATED, State, ask, first

WORKFLOWS = {
    "dispatched": GATED,
    "dispatched-asking": chain_of(State, ask=ask),
    "dispatched-short": chain_of(State, first=first),
}
