"""The protos that are not ours, and that a client without a package of them needs."""

from __future__ import annotations

from hashlib import sha256
from importlib.metadata import distribution
from pathlib import Path

import pytest
from runengine.v1 import run_service_pb2

from tests.support.stack import ROOT

VENDOR = ROOT / "protos/vendor"
OF_GOOGLE = [
    "google/api/annotations",
    "google/api/field_behavior",
    "google/api/http",
    "google/rpc/code",
    "google/rpc/error_details",
    "google/rpc/status",
]
# Of protovalidate 1.2.2, which is in no package of Python.
RULES = VENDOR / "buf/validate/validate.proto"
RULES_SHA256 = "a1dc1163ebac930b3b070655b91f2bc78df8b4aea940021661fe5ec7904a7b88"


def test_the_messages_that_runs_and_their_errors_are_made_of_are_published() -> None:
    assert sorted(VENDOR.rglob("*.proto")) == [
        RULES,
        *(VENDOR / f"{name}.proto" for name in OF_GOOGLE),
    ]


@pytest.mark.parametrize("name", OF_GOOGLE)
def test_a_proto_of_google_is_as_google_has_it(name: str) -> None:
    installed = Path(str(distribution("googleapis-common-protos").locate_file(f"{name}.proto")))
    assert (VENDOR / f"{name}.proto").read_bytes() == installed.read_bytes()


def test_our_modules_do_without_the_code_of_the_rules() -> None:
    """The user's own would meet it in one process, and of two versions the second fails to import."""
    imported = [file.name for file in run_service_pb2.DESCRIPTOR.dependencies]
    assert "google/api/field_behavior.proto" in imported
    assert "buf/validate/validate.proto" not in imported


def test_the_rules_are_those_of_protovalidate() -> None:
    assert sha256(RULES.read_bytes()).hexdigest() == RULES_SHA256
