"""The gateway remembers the JSON of what it has answered, and nobody can tell."""

from __future__ import annotations

import json

import orjson
import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from runengine.rest_json import encoder_of
from runengine.v1 import run_pb2, run_service_pb2
from runengine_gateway.cached_json import cached_json, cached_run_encoder
from runengine_gateway.json_mapping import reply_encoder

RESPONSES = [
    method.output_type
    for service in run_service_pb2.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


def some_run(**fields: object) -> run_pb2.Run:
    run = run_pb2.Run(id="r", workflow_name="w", status=run_pb2.RUN_STATUS_QUEUED, attempt=1, **fields)  # type: ignore[arg-type]
    run.trigger_payload.update({"brief": {"n": 3, "pi": 3.5, "none": None}})
    return run


@pytest.mark.parametrize("response", RESPONSES, ids=lambda each: each.name)
def test_every_response_has_the_json_that_it_has_without(response: Descriptor) -> None:
    message_class = GetMessageClass(response)
    full = message_class()
    for field in full.DESCRIPTOR.fields:
        if field.message_type is not None and field.message_type.name == "Run":
            if field.is_repeated:
                getattr(full, field.name).extend([some_run(), some_run(priority=3)])
            else:
                getattr(full, field.name).CopyFrom(some_run())
    as_json = cached_json(reply_encoder(response, ""))
    for message in (full, message_class()):
        reply = message.SerializeToString()
        expected = orjson.loads(orjson.dumps(encoder_of(response)(message)))
        assert orjson.loads(as_json(reply)) == expected
        assert orjson.loads(as_json(reply)) == expected  # and from memory


def test_a_value_of_any_depth_is_within_each_response() -> None:
    """orjson writes 254 levels in all, which a value may have by itself."""
    deep = "[" * 254 + "]" * 254
    run = some_run(waiting_for=[run_pb2.WaitingFor(id="a", value=deep)])
    pages = reply_encoder(run_service_pb2.ListCampaignRunsResponse.DESCRIPTOR, "")
    page = pages(run_service_pb2.ListCampaignRunsResponse(runs=[run]).SerializeToString())
    assert f'"value":{deep},'.encode() in page
    outputs = reply_encoder(run_service_pb2.GetRunOutputResponse.DESCRIPTOR, "")
    output = outputs(run_service_pb2.GetRunOutputResponse(output=deep).SerializeToString())
    assert json.loads(output)["output"] == json.loads(deep)


def test_the_json_of_a_run_is_not_made_again_until_the_run_changes() -> None:
    made: list[Message] = []

    def make(run: Message) -> dict[str, object]:
        made.append(run)
        return {"attempt": run.attempt}  # type: ignore[attr-defined]

    encode = cached_run_encoder(make)
    first, changed = some_run().SerializeToString(), some_run(priority=1).SerializeToString()
    for encoded in (first, bytes(bytearray(first)), changed, first):
        assert orjson.dumps(encode(encoded)) == b'{"attempt":1}'
    assert len(made) == 2


def test_a_large_run_is_not_kept() -> None:
    made: list[Message] = []

    def make(run: Message) -> dict[str, object]:
        made.append(run)
        return {}

    encode = cached_run_encoder(make)
    large = run_pb2.Run(id="r" * 8193).SerializeToString()
    encode(large)
    encode(large)
    assert len(made) == 2


@pytest.mark.parametrize(("size", "times"), [(32 * 1024, 1), (32 * 1024 + 1, 2)])
def test_a_reply_is_kept_unless_it_is_large(size: int, times: int) -> None:
    made: list[bytes] = []

    def make(reply: bytes) -> bytes:
        made.append(reply)
        return b"{}"

    as_json = cached_json(make)
    assert {as_json(b"x" * size), as_json(b"x" * size)} == {b"{}"}
    assert len(made) == times
