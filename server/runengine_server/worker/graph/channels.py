"""Channels whose values are what the store gives back, and whose errors tell which writes they rejected."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import new_class
from typing import Any

from langgraph._internal._constants import TASKS
from langgraph.channels.base import BaseChannel
from langgraph.channels.binop import BinaryOperatorAggregate
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import START

from runengine_server.worker.graph.due import is_edge, is_join
from runengine_server.worker.graph.stored_values import is_plain, objects_in, with_objects_as_stored

_REJECTION = "__runengine_rejection__"


@dataclass(frozen=True, slots=True)
class Rejection:
    """What a superstep wrote under `key`, in the order in which it was to be applied, and the places in it of
    the values that the channel could not take.
    """

    key: str
    values: Sequence[Any]
    places: Sequence[int]


def rejection_of(error: BaseException | None) -> Rejection | None:
    """The rejection that led to `error`, if one did."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if (found := getattr(error, _REJECTION, None)) is not None:
            return found  # type: ignore[no-any-return]
        error = error.__cause__ or error.__context__
    return None


def is_rejection(error: BaseException) -> bool:
    """Whether it is the error of the channel itself, and not what a node has made of it."""
    return hasattr(error, _REJECTION)


def keep_as_stored(channels: MutableMapping[str, Any]) -> None:
    """Replaces the channels that a graph's author has named by such channels."""
    for name, channel in channels.items():
        if not isinstance(channel, BaseChannel) or isinstance(channel, _AsStored):
            continue
        if name in (START, TASKS) or is_edge(name) or is_join(name):
            continue
        made = channel.copy()
        with suppress(TypeError):  # a class of the author's own with another layout
            made.__class__ = _kind_of(type(channel))
            channels[name] = made


_kinds: dict[type[Any], type[Any]] = {}


def _kind_of(kind: type[Any]) -> type[Any]:
    if kind not in _kinds:
        ours = _Reduced if issubclass(kind, BinaryOperatorAggregate | DeltaChannel) else _AsStored
        _kinds[kind] = new_class(
            kind.__name__, (ours, kind), exec_body=lambda body: body.update(__slots__=())
        )
    return _kinds[kind]


class _AsStored(BaseChannel[Any, Any, Any]):
    """Its values were as stored before they were written to it, see StoringNode."""

    __slots__ = ()

    def update(self, values: Sequence[Any]) -> bool:
        """As the channel's own; the error that it raises has a Rejection."""
        if not values:
            return super().update(values)  # type: ignore[safe-super]
        before = getattr(self, "value", None)
        try:
            return super().update(values)  # type: ignore[safe-super]
        except Exception as error:
            places = self._rejected(values, before)
            with suppress(AttributeError):
                setattr(error, _REJECTION, Rejection(self.key, values, places))
            raise

    def _rejected(self, values: Sequence[Any], before: Any) -> Sequence[int]:
        """The place of the first value that it does not take; all where it takes each by itself."""
        if len(values) > 1 and hasattr(self, "value"):
            setattr(self, "value", before)  # noqa: B010
            probe = self.copy()
            for place, value in enumerate(values):
                try:
                    super(_AsStored, probe).update([value])  # type: ignore[safe-super]
                except Exception:
                    return [place]
        return range(len(values))


class _Reduced(_AsStored):
    """Its value is made by a reducer, of objects known to be as stored and of others that it adds."""

    __slots__ = ()
    value: Any

    def update(self, values: Sequence[Any]) -> bool:
        """As the channel's own. Raises ValueNotStorable."""
        if not values:
            return super().update(values)
        known = [] if is_plain(self.value) else list(objects_in(self.value))
        changed = super().update(values)
        if not is_plain(self.value):
            self._settle([*known, *objects_in(list(values))])
        return changed

    def replay_writes(self, writes: Sequence[tuple[str, str, Any]]) -> None:
        """As that of a DeltaChannel, which makes its value of the writes since a snapshot."""
        known = [*objects_in(self.value), *(each for *_, value in writes for each in objects_in(value))]
        super().replay_writes(writes)  # type: ignore[misc]
        self._settle(known)

    def _settle(self, known: Sequence[Any]) -> None:
        # Only new objects, so that a list of messages is not encoded again with each message that is added.
        self.value = with_objects_as_stored(self.value, {id(each) for each in known}, self.key)
