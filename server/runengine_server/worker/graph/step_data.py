"""What a step was called with and what it wrote, as they are kept with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from langgraph._internal._constants import NO_WRITES, PREVIOUS, RETURN, TASKS
from langgraph.checkpoint.base import WRITES_IDX_MAP
from langgraph.constants import END
from pydantic import BaseModel

from runengine_server.domain.encoded_run import encode_step_input, encode_step_update
from runengine_server.worker.graph.due import is_edge, is_join
from runengine_server.worker.graph.large_values import least_size
from runengine_server.worker.graph.output import to_json, words_of

# Writes that are not of the state, and channels of which the value itself is what was written: what a task or
# an @entrypoint returned, and a state that is no object.
_NOT_SHOWN = frozenset({TASKS, NO_WRITES, PREVIOUS, *WRITES_IDX_MAP})
_WHOLE = (RETURN, END, "__root__")


@dataclass(frozen=True, slots=True)
class StepInput:
    """What a step was called with, encoded, and the values that are in it."""

    encoded: bytes
    values: Mapping[str, Any]


def input_of_step(value: Any, untracked: frozenset[str], limit: int) -> StepInput | None:
    """The input of a step, at most `limit` bytes of JSON; None where `limit` is 0. Without the values of
    `untracked` channels, which LangGraph keeps out of its checkpoints.
    """
    encoded = _encoded(encode_step_input, lambda: _tracked(value, untracked), limit)
    if encoded is None:
        return None
    fields = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return StepInput(encoded, {key: each for key, each in fields.items() if key not in untracked})


def update_of_step(writes: Sequence[tuple[str, Any]], limit: int, stored_size: int) -> bytes | None:
    """As input_of_step, of what a task wrote: in the shape of LangGraph's stream mode "updates". It is stored
    in `stored_size` bytes.
    """
    return _encoded(encode_step_update, lambda: _update(writes), limit, stored_size)


def _encoded(
    encode: Callable[..., bytes], make: Callable[[], Any], limit: int, stored_size: int | None = None
) -> bytes | None:
    if limit == 0:
        return None
    try:
        value = make()
        is_small = stored_size is not None and stored_size <= limit
        size = 0 if is_small else least_size(value, limit)
        if size <= limit:
            json = to_json(value, shows_unknown=True)
            if len(json) <= limit:
                return encode(json)
            size = len(json)
    except Exception as error:
        return encode(note=f"It cannot be shown as JSON: {words_of(error)}")
    allowed = f"RUNENGINE_STEP_DATA_BYTES allows {limit:,}"
    return encode(note=f"It was not kept: it takes at least {size:,} bytes of JSON, and {allowed}.")


def _tracked(value: Any, untracked: frozenset[str]) -> Any:
    if not untracked:
        return value
    if isinstance(value, BaseModel):
        return value.model_dump(exclude=set(untracked), serialize_as_any=True)
    if is_dataclass(value) and not isinstance(value, type):
        value = {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, dict):
        return {key: each for key, each in value.items() if key not in untracked}
    return value


def _update(writes: Sequence[tuple[str, Any]]) -> Any:
    shown = [each for each in writes if not _is_hidden(each[0])]
    updates = [value for channel, value in shown if channel in _WHOLE]
    if not updates:
        update = dict(shown)
        if len(update) == len(shown):
            return update or None
        updates = [{channel: value} for channel, value in shown]
    return updates[0] if len(updates) == 1 else updates


def _is_hidden(channel: str) -> bool:
    return channel in _NOT_SHOWN or is_edge(channel) or is_join(channel)
