"""What a run tells of its progress, on the way from its worker to the processes that watch it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

import orjson

# For how long a run counts as watched after the last word of a process that watches it; it says so every
# third of that.
WATCHED_SECONDS = 15.0

# What is larger is dropped. A notification has at most 7,999 bytes.
MAX_EVENT_BYTES = 4096
_MAX_PAYLOAD_BYTES = 7900
_MAX_TENANT_BYTES = 4096

# A payload that tells a process of a tenant begins so; one of a run is the run's id.
OF_TENANT = "@"


class ProgressKind(StrEnum):
    """What an event tells of. DROPPED has nothing to tell, but that events were dropped up to its number."""

    CUSTOM = "custom"
    MESSAGE = "message"
    STEP = "step"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class WatchedTenants:
    """What a process tells workers of the tenants all whose runs it watches, and which of these with their
    progress.
    """

    process_id: UUID
    tenants: Sequence[tuple[str, bool]]

    def encode(self) -> list[str]:
        """As the payloads of as few notifications as hold them. A tenant with an id of more than 1,000
        characters is left out.
        """
        payloads: list[bytes] = []
        for each in self.tenants:
            part = b"," + orjson.dumps(each)
            if len(part) > _MAX_TENANT_BYTES:
                continue
            if not payloads or len(payloads[-1]) + len(part) > _MAX_PAYLOAD_BYTES:
                payloads.append(b"[" + orjson.dumps(self.process_id))
            payloads[-1] += part
        return [(payload + b"]").decode() for payload in payloads]

    @classmethod
    def decode(cls, payload: str) -> WatchedTenants:
        """What a payload says."""
        process_id, *tenants = orjson.loads(payload)
        return cls(UUID(process_id), [(tenant_id, is_told) for tenant_id, is_told in tenants])


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """`data` is JSON. `step_id` is that of the innermost node, `run_step_id` the id of the step that it is
    part of, `namespace` LangGraph's.
    """

    kind: ProgressKind
    step_id: str = ""
    run_step_id: UUID | None = None
    namespace: str = ""
    message_id: str | None = None
    data: bytes = b"null"


@dataclass(frozen=True, slots=True)
class Progress:
    """Events of one execution of a run, in order, each with its number: they are counted from 1, those that
    are dropped too. `attempt` is that of the run.
    """

    tenant_id: str
    run_id: UUID
    epoch: int
    attempt: int
    events: Sequence[tuple[int, ProgressEvent]]


def encode_event(event: ProgressEvent) -> bytes:
    """A part of a payload, without its number. Raises TypeError for text that is not Unicode."""
    return orjson.dumps(
        [
            event.kind,
            event.step_id,
            event.run_step_id,
            event.namespace,
            event.message_id,
            orjson.Fragment(event.data),
        ]
    )


DROPPED = encode_event(ProgressEvent(ProgressKind.DROPPED))


def encode_payloads(
    tenant_id: str, run_id: UUID, epoch: int, attempt: int, events: Iterable[tuple[int, bytes]]
) -> list[str]:
    """The payloads of as few notifications as bring these events, in order."""
    header = orjson.dumps([tenant_id, str(run_id), epoch, attempt])[:-1]
    payloads: list[bytes] = []
    for number, encoded in events:
        part = b",[%d,%b]" % (number, encoded)
        if not payloads or len(payloads[-1]) + len(part) > _MAX_PAYLOAD_BYTES:
            payloads.append(header)
        payloads[-1] += part
    return [(payload + b"]").decode() for payload in payloads]


def decode_payload(payload: str) -> Progress:
    """What a payload brings."""
    tenant_id, run_id, epoch, attempt, *events = orjson.loads(payload)
    return Progress(
        tenant_id, UUID(run_id), epoch, attempt, [(number, _event(*each)) for number, each in events]
    )


def _event(
    kind: str, step_id: str, run_step_id: str | None, namespace: str, message_id: str | None, data: object
) -> ProgressEvent:
    of_step = UUID(run_step_id) if run_step_id else None
    return ProgressEvent(ProgressKind(kind), step_id, of_step, namespace, message_id, orjson.dumps(data))
