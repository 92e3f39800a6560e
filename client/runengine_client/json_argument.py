"""Reads JSON from an argument of the command line."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from runengine_client.structs import to_struct, to_value


@dataclass(frozen=True, slots=True)
class JsonValue:
    """A value that was given, which may be None."""

    value: Any


def json_object(text: str) -> dict[str, Any]:
    """The object in `text`, in the file after an `@`, or on stdin for `-`. Raises typer.BadParameter."""
    value = _parse(text)
    try:
        to_struct(value, "$")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return dict(value)


def json_value(text: str) -> JsonValue:
    """Any value, read as `json_object` reads an object."""
    value = _parse(text)
    try:
        to_value(value, "$")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return JsonValue(value)


def _parse(text: str) -> Any:
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        return json.loads(text, object_pairs_hook=_no_duplicates)
    except OSError as error:
        raise typer.BadParameter(f"cannot read {error.filename}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"not JSON: {error}") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Python keeps the last of two equal keys, and drops the first without an error.
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} appears twice")
    return value
