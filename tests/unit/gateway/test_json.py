"""The JSON of requests and responses (contract: REST JSON)."""

import json
from typing import Any

import orjson
import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from runengine.rest_json import encode_struct, encode_timestamp, encoder_of
from runengine.v1 import artifact_service_pb2, campaign_pb2, run_pb2, run_service_pb2
from runengine_gateway.json_mapping import MalformedError, json_path, json_setter, takes_null, text_setter


def encoded(message: Any) -> dict[str, Any]:
    """As the caller gets it: through orjson and back."""
    answer: dict[str, Any] = json.loads(orjson.dumps(encoder_of(message.DESCRIPTOR)(message)))
    return answer


def test_an_empty_run_has_every_field_and_null_where_there_is_no_value() -> None:
    assert encoded(run_pb2.Run(status=run_pb2.RUN_STATUS_QUEUED)) == {
        **{field.json_name: None for field in run_pb2.Run.DESCRIPTOR.fields},
        "id": "",
        "workflowName": "",
        "status": "queued",
        "attempt": 0,
        "priority": 0,
    }


def test_a_full_run_has_every_value() -> None:
    run = run_pb2.Run(
        id="r",
        workflow_name="campaign_bundle",
        status=run_pb2.RUN_STATUS_FAILED,
        error=run_pb2.RunError(code="STEP_FAILED", message="no", step_id="draft", attempt=2, retryable=True),
        started_at=Timestamp(seconds=1_769_851_800, nanos=123_000_000),
        duration_ms=2**40,
        attempt=2,
    )
    run.trigger_payload.update({"brief": {"budget": 3}})
    run.context.SetInParent()
    answer = encoded(run)
    assert answer["triggerPayload"] == {"brief": {"budget": 3}}
    assert answer["context"] == {}
    assert answer["startedAt"] == "2026-01-31T09:30:00.123Z"
    assert answer["durationMs"] == 2**40
    assert answer["error"] == {
        "code": "STEP_FAILED",
        "message": "no",
        "stepId": "draft",
        "attempt": 2,
        "retryable": True,
    }


def test_an_error_that_belongs_to_no_step_has_a_null_step_id() -> None:
    assert encoded(run_pb2.RunError(code="WORKER_LOST"))["stepId"] is None


def test_a_duration_of_zero_is_a_number() -> None:
    assert encoded(run_pb2.Run(duration_ms=0))["durationMs"] == 0


def test_no_artifacts_are_null_and_some_are_a_list() -> None:
    assert encoded(run_pb2.RunStep())["outputArtifactIds"] is None
    assert encoded(run_pb2.RunStep(output_artifact_ids=["a", "b"]))["outputArtifactIds"] == ["a", "b"]


def test_a_thing_that_a_run_waits_for_has_the_value_of_its_json_and_none_is_null() -> None:
    assert encoded(run_pb2.Run())["waitingFor"] is None
    since = Timestamp(seconds=1_769_851_800)
    asked = {"question": "ü", "choices": [1, None, 2.5]}
    run = run_pb2.Run(
        waiting_for=[
            run_pb2.WaitingFor(id="a", step_id="outer:inner", value=json.dumps(asked), since=since),
            run_pb2.WaitingFor(id="b", step_id="gate", value="null", since=since),
            run_pb2.WaitingFor(id="c", step_id="strange", since=since, note="It is no JSON."),
        ]
    )
    at = "2026-01-31T09:30:00.000Z"
    assert encoded(run)["waitingFor"] == [
        {"id": "a", "stepId": "outer:inner", "value": asked, "since": at, "note": None},
        {"id": "b", "stepId": "gate", "value": None, "since": at, "note": None},
        {"id": "c", "stepId": "strange", "value": None, "since": at, "note": "It is no JSON."},
    ]


@pytest.mark.parametrize(
    "value", [None, True, 0, -2.5, "", "ü", [], {}, [[], [None, {}]], {"a": None, "b": [{"c": 1}]}], ids=repr
)
def test_a_field_of_any_value_takes_each_and_null_is_one(value: object) -> None:
    fields = run_service_pb2.ResumeRunRequest.DESCRIPTOR.fields_by_name
    request = run_service_pb2.ResumeRunRequest(run_id="r")
    json_setter(fields["value"])(request, value)
    json_setter(fields["values"])(request, {"first": value, "": 1})
    parsed = run_service_pb2.ResumeRunRequest.FromString(request.SerializeToString())
    assert parsed.HasField("value")
    given = Struct(fields={"one": parsed.value, **parsed.values})
    assert encode_struct(given) == {"one": value, "first": value, "": 1}
    assert [name for name in ("run_id", "value", "values") if takes_null(fields[name])] == ["value", "values"]


@pytest.mark.parametrize("value", [None, [], {}, "x", 1])
def test_values_by_id_are_an_object_that_is_not_empty(value: object) -> None:
    request = run_service_pb2.ResumeRunRequest()
    with pytest.raises(MalformedError, match=r"^must be an object with a member or more$"):
        json_setter(request.DESCRIPTOR.fields_by_name["values"])(request, value)


def test_no_runs_are_an_empty_list() -> None:
    assert encoded(run_service_pb2.ListCampaignRunsResponse(limit=20)) == {
        "runs": [],
        "total": 0,
        "limit": 20,
        "offset": 0,
        "nextPageToken": None,
        "statusCounts": None,
    }


@pytest.mark.parametrize(
    ("number", "word"),
    [(0, "unspecified"), (1, "queued"), (2, "running"), (3, "completed"), (4, "failed"), (5, "cancelled")],
)
def test_a_status_is_a_lower_case_word(number: int, word: str) -> None:
    assert encoded(run_pb2.Run(status=number))["status"] == word  # type: ignore[arg-type]


def test_each_enum_has_its_own_prefix_removed() -> None:
    assert encoded(run_pb2.RunStep(status=run_pb2.STEP_STATUS_SKIPPED))["status"] == "skipped"
    assert encoded(campaign_pb2.Campaign(status=campaign_pb2.CAMPAIGN_STATUS_LIVE))["status"] == "live"


def test_a_status_of_a_newer_server_does_not_break_the_response() -> None:
    assert encoded(run_pb2.Run(status=99))["status"] == "unspecified"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "nanos", "text"),
    [
        (0, 0, "1970-01-01T00:00:00.000Z"),
        (1_769_851_800, 0, "2026-01-31T09:30:00.000Z"),
        (1_769_851_800, 120_000_000, "2026-01-31T09:30:00.120Z"),
        (1_769_851_800, 123_999_999, "2026-01-31T09:30:00.123Z"),
        (-1, 1_000_000, "1969-12-31T23:59:59.001Z"),
    ],
)
def test_a_time_always_has_three_decimals(seconds: int, nanos: int, text: str) -> None:
    assert encode_timestamp(Timestamp(seconds=seconds, nanos=nanos)) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (3.0, b"3"),
        (-3.0, b"-3"),
        (0.25, b"0.25"),
        (float(2**53), b"9007199254740992"),
        (-float(2**53), b"-9007199254740992"),
        (float(2**54), b"1.8014398509481984e+16"),
        (1e300, b"1e+300"),
    ],
)
def test_a_whole_number_is_written_as_an_integer(number: float, text: bytes) -> None:
    struct = Struct()
    struct.update({"n": number})
    assert orjson.dumps(encode_struct(struct)) == b'{"n":' + text + b"}"


def test_a_payload_comes_back_as_it_was_given() -> None:
    payload: dict[str, object] = {
        "a": [[], {}, [{}], None, True, False, 0, "", {"b": {"c": [1, 2.5]}}],
        "": "ü",
        "a.b": [],
    }
    request = run_service_pb2.TriggerRunRequest()
    json_setter(request.DESCRIPTOR.fields_by_name["trigger_payload"])(request, payload)
    parsed = run_service_pb2.TriggerRunRequest.FromString(request.SerializeToString())
    assert encode_struct(parsed.trigger_payload) == payload


def test_an_empty_payload_is_present() -> None:
    request = run_service_pb2.TriggerRunRequest()
    json_setter(request.DESCRIPTOR.fields_by_name["trigger_payload"])(request, {})
    assert request.HasField("trigger_payload")


@pytest.mark.parametrize(
    ("field", "value", "description"),
    [
        ("trigger_payload", [], "must be an object or null"),
        ("trigger_payload", "x", "must be an object or null"),
        ("context", False, "must be an object or null"),
        ("workflow_name", 3, "must be a string"),
        ("workflow_name", {}, "must be a string"),
    ],
)
def test_a_member_of_the_wrong_type_is_refused(field: str, value: object, description: str) -> None:
    request = run_service_pb2.TriggerRunRequest()
    with pytest.raises(MalformedError, match=f"^{description}$"):
        json_setter(request.DESCRIPTOR.fields_by_name[field])(request, value)


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("20", 20), ("-1", -1), ("007", 7), ("2147483647", 2**31 - 1), ("-2147483648", -(2**31))],
)
def test_an_integer_parameter_is_read(text: str, number: int) -> None:
    request = run_service_pb2.ListCampaignRunsRequest()
    text_setter(request.DESCRIPTOR.fields_by_name["limit"])(request, text)
    assert request.HasField("limit")
    assert request.limit == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 1",
        "1 ",
        "+1",
        "1.0",
        "1e3",
        "0x1",
        "1_0",
        "٣",
        "abc",
        "2147483648",
        "-2147483649",
        "9" * 5000,
        "1\n",
    ],
)
def test_a_number_that_is_no_32_bit_integer_is_refused(text: str) -> None:
    request = run_service_pb2.ListCampaignRunsRequest()
    with pytest.raises(MalformedError, match="must be an integer from -2147483648 to 2147483647"):
        text_setter(request.DESCRIPTOR.fields_by_name["limit"])(request, text)


def test_a_repeated_parameter_adds_up() -> None:
    request = run_service_pb2.ListCampaignRunsRequest()
    setter = text_setter(request.DESCRIPTOR.fields_by_name["status"])
    setter(request, "failed")
    setter(request, "queued")
    assert list(request.status) == [run_pb2.RUN_STATUS_FAILED, run_pb2.RUN_STATUS_QUEUED]


@pytest.mark.parametrize("word", ["", "unspecified", "FAILED", "RUN_STATUS_FAILED", "4", "dead"])
def test_an_unknown_word_is_refused_and_the_known_ones_are_listed(word: str) -> None:
    request = run_service_pb2.ListCampaignRunsRequest()
    with pytest.raises(
        MalformedError, match=r"^must be one of queued, running, completed, failed, cancelled$"
    ):
        text_setter(request.DESCRIPTOR.fields_by_name["status"])(request, word)


@pytest.mark.parametrize(
    ("proto", "shown"),
    [
        ("workflow_name", "workflowName"),
        ("context.campaignId", "context.campaignId"),
        ("trigger_payload.a_b.c_d[3].e_f", "triggerPayload.a_b.c_d[3].e_f"),
        ("trigger_payload", "triggerPayload"),
        ("idempotency-key", "idempotency-key"),
        ("", ""),
    ],
)
def test_a_path_of_the_server_is_shown_in_json_names(proto: str, shown: str) -> None:
    assert json_path(proto, run_service_pb2.TriggerRunRequest.DESCRIPTOR) == shown


def test_a_path_within_a_value_or_a_map_keeps_the_names_of_the_caller() -> None:
    descriptor = run_service_pb2.ResumeRunRequest.DESCRIPTOR
    for path in ("value.struct_value.number_value[0]", "values.value.struct_value", 'values["a b"].key'):
        assert json_path(path, descriptor) == path
    assert json_path("run_id", descriptor) == "runId"


def test_a_path_through_messages_and_lists_is_shown_in_json_names() -> None:
    descriptor = run_service_pb2.ListCampaignRunsResponse.DESCRIPTOR
    assert json_path("runs[2].error.step_id", descriptor) == "runs[2].error.stepId"


def test_a_type_without_a_mapping_is_found_at_the_start() -> None:
    with pytest.raises(TypeError, match="DownloadArtifactResponse"):
        encoder_of(artifact_service_pb2.DownloadArtifactResponse.DESCRIPTOR)
