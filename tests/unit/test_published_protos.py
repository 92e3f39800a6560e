"""The protos that are not ours, and that a client without a package of them needs."""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.stack import ROOT

VENDOR = ROOT / "protos/vendor"
PUBLISHED = ["google/api/annotations", "google/api/http", "google/rpc/error_details", "google/rpc/status"]


def test_what_runs_and_their_errors_are_made_of_is_published() -> None:
    assert sorted(VENDOR.rglob("*.proto")) == [VENDOR / f"{name}.proto" for name in PUBLISHED]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_proto_that_is_not_ours_is_as_its_owner_has_it(name: str) -> None:
    installed = Path(str(distribution("googleapis-common-protos").locate_file(f"{name}.proto")))
    assert (VENDOR / f"{name}.proto").read_bytes() == installed.read_bytes()
