"""JSON values to Struct and back, and messages to the JSON of REST."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from runengine.v1.campaign_pb2 import Campaign, CampaignStatus
from runengine.v1.run_pb2 import Run, RunError, RunStatus, RunStep, StepError, StepStatus
from runengine.v1.run_service_pb2 import ListCampaignRunsResponse, StatusCounts
from runengine_client import struct_to_dict, to_struct, to_value
from runengine_client.json_view import campaign_json, page_json, run_json, steps_json
from runengine_client.tables import status_text


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"deeper": value}
    return value


def test_json_comes_back_as_it_went() -> None:
    value: dict[str, Any] = {
        "text": "Ünïcode \N{ROCKET}",
        "nothing": None,
        "yes": True,
        "no": False,
        "whole": 3,
        "largest": 2**53,
        "smallest": -(2**53),
        "part": 0.5,
        "huge": 1e300,
        "list": [[], {}, [1, [2]], "x", None],
        "": {"empty key": 1},
    }
    back = struct_to_dict(to_struct(value))
    assert back == value
    assert json.dumps(back, sort_keys=True) == json.dumps(value, sort_keys=True)


def test_whole_numbers_come_back_as_integers_and_keys_sorted() -> None:
    back = struct_to_dict(to_struct({"b": 3.0, "a": -0.0}))
    assert json.dumps(back) == '{"a": 0, "b": 3}'


@pytest.mark.parametrize(
    "value", [None, True, 0, 2**53, -0.5, "", "ü", [], {}, [None, {"a": [{}]}]], ids=repr
)
def test_a_value_of_any_type_comes_back_as_it_went(value: Any) -> None:
    assert struct_to_dict(Struct(fields={"it": to_value(value)})) == {"it": value}


def test_a_value_is_refused_as_a_member_of_a_struct_is() -> None:
    with pytest.raises(ValueError, match=r"^answer\.a\[0\] is an integer beyond"):
        to_value({"a": [2**53 + 1]}, "answer")
    assert to_value(nested(33)).HasField("struct_value")
    with pytest.raises(ValueError, match="is nested more than 33 deep"):
        to_value(nested(34))


def test_tuples_count_as_lists() -> None:
    assert struct_to_dict(to_struct({"pair": (1, 2)})) == {"pair": [1, 2]}


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"a": [1, {"b": math.nan}]}, r"payload\.a\[1\]\.b is nan, which JSON does not have"),
        ({"a": -math.inf}, r"payload\.a is -inf, which JSON does not have"),
        ({"a": 2**53 + 1}, r"payload\.a is an integer beyond ±2\^53"),
        ({"a": -(10**400)}, r"payload\.a is an integer beyond ±2\^53"),
        ({"a": "\ud800"}, r"payload\.a has a lone surrogate"),
        ({"\ud800": 1}, r"payload has a lone surrogate"),
        ({1: "a"}, r"payload has the key 1, which is no string"),
        ({"a": b"bytes"}, r"payload\.a is a bytes, which JSON does not have"),
        ({"a": {1, 2}}, r"payload\.a is a set"),
        ({"a": datetime(2026, 1, 31, tzinfo=UTC)}, r"payload\.a is a datetime"),
        ({"a": uuid4()}, r"payload\.a is a UUID"),
        ([1], r"payload must be a JSON object, not list"),
        ("text", r"payload must be a JSON object, not str"),
    ],
)
def test_a_value_that_json_cannot_carry_is_refused_with_its_place(value: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        to_struct(value, "payload")


def test_nesting_is_refused_just_where_protobuf_could_not_parse_it_back() -> None:
    Struct.FromString(to_struct(nested(33)).SerializeToString())
    with pytest.raises(ValueError, match="nested more than 33 deep"):
        to_struct(nested(34))


def test_a_value_that_contains_itself_is_refused() -> None:
    value: dict[str, Any] = {}
    value["again"] = [value]
    with pytest.raises(ValueError, match="nested more than 33 deep"):
        to_struct(value)


def moment(milliseconds: int) -> Timestamp:
    return Timestamp(
        seconds=1769851800 + milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000 + 999_999
    )


def test_a_new_run_as_rest_shows_it() -> None:
    run = Run(
        id="r",
        workflow_name="w",
        status=RunStatus.RUN_STATUS_QUEUED,
        created_at=moment(123),
        updated_at=moment(123),
        attempt=1,
    )
    assert run_json(run) == {
        **{field.json_name: None for field in Run.DESCRIPTOR.fields},
        "id": "r",
        "workflowName": "w",
        "status": "queued",
        "createdAt": "2026-01-31T09:30:00.123Z",
        "updatedAt": "2026-01-31T09:30:00.123Z",
        "attempt": 1,
        "priority": 0,
    }


def test_a_failed_run_as_rest_shows_it() -> None:
    run = Run(
        status=RunStatus.RUN_STATUS_FAILED,
        trigger_payload=to_struct({}),
        context=to_struct({"campaignId": "c", "n": 2}),
        error=RunError(code="WORKER_LOST", message="m", attempt=2, retryable=True),
        started_at=moment(0),
        completed_at=moment(0),
        duration_ms=0,
    )
    document = run_json(run)
    assert document["triggerPayload"] == {}
    assert document["context"] == {"campaignId": "c", "n": 2}
    assert document["error"] == {
        "code": "WORKER_LOST",
        "message": "m",
        "stepId": None,
        "attempt": 2,
        "retryable": True,
    }
    assert document["startedAt"] == document["completedAt"] == "2026-01-31T09:30:00.000Z"
    assert document["durationMs"] == 0


def test_steps_look_as_rest_shows_them() -> None:
    failed = RunStep(
        id="s",
        step_id="render",
        skill_id="bundle.render",
        status=StepStatus.STEP_STATUS_FAILED,
        duration_ms=5,
        attempt=2,
        error=StepError(code="STEP_FAILED", message="m", step_id="render", attempt=2),
        created_at=moment(0),
        updated_at=moment(5),
    )
    done = RunStep(status=StepStatus.STEP_STATUS_COMPLETED, cache_hit=True, output_artifact_ids=["a", "b"])
    document = steps_json([failed, done])
    assert document["steps"][0] == {
        "id": "s",
        "stepId": "render",
        "skillId": "bundle.render",
        "status": "failed",
        "cacheHit": False,
        "durationMs": 5,
        "attempt": 2,
        "error": {
            "code": "STEP_FAILED",
            "message": "m",
            "stepId": "render",
            "attempt": 2,
            "retryable": False,
        },
        "outputArtifactIds": None,
        "parentStepId": None,
        "createdAt": "2026-01-31T09:30:00.000Z",
        "updatedAt": "2026-01-31T09:30:00.005Z",
    }
    assert document["steps"][1]["cacheHit"] is True
    assert document["steps"][1]["outputArtifactIds"] == ["a", "b"]
    assert document["steps"][1]["durationMs"] is None


def test_a_page_and_a_campaign_as_rest_shows_them() -> None:
    counts = StatusCounts(completed=4, failed=3)
    page = ListCampaignRunsResponse(total=7, limit=20, offset=40, status_counts=counts)
    assert page_json(page) == {
        "runs": [],
        "total": 7,
        "limit": 20,
        "offset": 40,
        "nextPageToken": None,
        "statusCounts": {"queued": 0, "running": 0, "completed": 4, "failed": 3, "cancelled": 0},
    }
    campaign = Campaign(
        id="c", status=CampaignStatus.CAMPAIGN_STATUS_DRAFT, created_at=moment(0), updated_at=moment(0)
    )
    assert campaign_json(campaign) == {
        "id": "c",
        "status": "draft",
        "bundleUrl": None,
        "latestRunId": None,
        "createdAt": "2026-01-31T09:30:00.000Z",
        "updatedAt": "2026-01-31T09:30:00.000Z",
    }


def test_a_status_of_a_newer_server_shows_as_its_number_to_people_and_in_json_as_rest_has_it() -> None:
    run = Run.FromString(b"\x18\x63")  # field 3, status, is 99
    assert status_text(run).plain == "? 99"
    assert run_json(run)["status"] == "unspecified"
