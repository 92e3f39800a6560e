"""What the rules in the protos forbid, as the server words it and as protovalidate judges it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import protovalidate
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Value
from runengine.rules import alternatives_of, is_required
from runengine.v1 import artifact_service_pb2, campaign_service_pb2, run_service_pb2
from runengine.v1.run_pb2 import RunStep
from runengine.v1.run_service_pb2 import ListCampaignRunsRequest, ResumeRunRequest, TriggerRunRequest
from runengine_server.rpc.validation import violations_of

ID = "0198d6a2-7c1e-7b53-9f4e-3d2c1b0a9f8e"
VALUES: dict[int, list[Any]] = {
    FieldDescriptor.TYPE_STRING: [
        "", "a", ID, ID.upper(), f"{{{ID}}}", f"urn:uuid:{ID}", ID.replace("-", ""), f"{ID}\n", f" {ID}",
        "٠" * 36,
    ],
    FieldDescriptor.TYPE_INT32: [-(2**31), -101, -100, -1, 0, 1, 100, 101, 2**31 - 1],
    FieldDescriptor.TYPE_ENUM: [[0], [1], [5], [6], [-1], [5, 0], [1] * 100, [1] * 101],
}  # fmt: skip


def requests() -> Iterator[Descriptor]:
    for file in (run_service_pb2, campaign_service_pb2, artifact_service_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            yield from (method.input_type for method in service.methods)


def requests_with(message: Descriptor, field: FieldDescriptor) -> Iterator[Message]:
    """A request with each of the values in this field, and nothing in the others."""
    for value in VALUES.get(field.type, ()):
        request = GetMessageClass(message)()
        if field.is_repeated:
            getattr(request, field.name).extend(value)
        else:
            setattr(request, field.name, value)
        yield request


@pytest.mark.parametrize("message", [*requests()], ids=lambda message: message.name)
def test_a_request_violates_what_protovalidate_says_it_violates(message: Descriptor) -> None:
    for request in (request for field in message.fields for request in requests_with(message, field)):
        paths = [each.proto.field for each in protovalidate.collect_violations(request)]
        judged = {path.elements[0].field_name for path in paths if path is not None}
        # What is wrong with the message as a whole belongs to none of its fields.
        whole = alternatives_of(message)
        found = {each.field.partition("[")[0] for each in violations_of(request)}
        assert found - set(whole) == judged, request
        assert bool(found & set(whole)) == (None in paths), request


@pytest.mark.parametrize("message", [*requests()], ids=lambda message: message.name)
def test_a_required_field_is_one_that_an_empty_request_violates(message: Descriptor) -> None:
    violated = [each.field for each in violations_of(GetMessageClass(message)())]
    alternatives = alternatives_of(message)
    assert violated == [field.name for field in message.fields if is_required(field)] + alternatives[:1]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, [("value", "is required, or values in its place")]),
        ({"values": {}}, [("value", "is required, or values in its place")]),
        ({"value": Value()}, []),
        ({"value": Value(bool_value=False)}, []),
        ({"values": {"": Value()}}, []),
        ({"value": Value(), "values": {"a": Value()}}, [("values", "goes with no value")]),
    ],
)
def test_of_a_value_and_values_one_is_given(given: dict[str, Any], found: list[tuple[str, str]]) -> None:
    request = ResumeRunRequest(run_id=ID, **given)
    assert [(each.field, each.description) for each in violations_of(request)] == found
    assert bool(protovalidate.collect_violations(request)) == bool(found)


def test_a_violation_is_worded_for_a_person() -> None:
    request = ListCampaignRunsRequest(campaign_id="x", status=[1, 0], limit=101, offset=-1)  # type: ignore[list-item]
    assert [(each.field, each.description) for each in violations_of(request)] == [
        ("campaign_id", "must be a UUID, such as 0198d6a2-7c1e-7b53-9f4e-3d2c1b0a9f8e"),
        ("status[1]", "must be one of queued, running, completed, failed, cancelled"),
        ("limit", "must be 1 to 100"),
        ("offset", "must be 0 or more"),
    ]
    assert [each.description for each in violations_of(TriggerRunRequest(priority=-101))] == [
        "is required",
        "must be -100 to 100",
    ]


def test_a_rule_that_the_server_does_not_know_is_a_fault_and_not_passed_over() -> None:
    with pytest.raises(TypeError, match="output_artifact_ids has rules that are not checked here"):
        violations_of(RunStep(id=ID))
