"""What a graph has returned, as JSON."""

from __future__ import annotations

import ipaddress
import re
from base64 import b64encode
from collections import deque
from datetime import timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import Any

import orjson
import structlog
import uuid_utils.compat
from pydantic import BaseModel, SecretBytes, SecretStr

from runengine_server.domain.encoded_run import encode_output
from runengine_server.domain.run import Artifact, ClaimedRun, RunOutput
from runengine_server.repositories.artifact_store import ArtifactStore

# A greater output is an artifact of the run.
MAX_OUTPUT_BYTES = 1 << 20
ARTIFACT_NAME, ARTIFACT_MEDIA_TYPE = "output.json", "application/json"

_MAX_WORDS = 500
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z

_TEXT = (
    Decimal,
    PurePath,
    SecretStr,
    SecretBytes,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
)

_log = structlog.get_logger()


async def stored_output(run: ClaimedRun, artifacts: ArtifactStore, value: Any) -> RunOutput:
    """The output as it is kept with the run. Never fails a run: what cannot be shown or stored is a note that
    says so.
    """
    try:
        output = to_json(value)
    except Exception as error:
        _log.warning("the output of a run cannot be shown as JSON", run_id=str(run.id), exc_info=error)
        return RunOutput(encode_output(note=f"The output cannot be shown as JSON: {words_of(error)}"), None)
    if len(output) <= MAX_OUTPUT_BYTES:
        return RunOutput(encode_output(output), None)
    artifact_id = uuid_utils.compat.uuid7()
    key = artifacts.key(run.tenant_id, run.id, artifact_id)
    try:
        await artifacts.put(key, output, ARTIFACT_NAME, ARTIFACT_MEDIA_TYPE)
    except Exception as error:
        _log.error("the output of a run was not stored", run_id=str(run.id), exc_info=error)
        note = f"The output, {len(output):,} bytes of JSON, could not be stored as an artifact."
        return RunOutput(encode_output(note=note), None)
    artifact = Artifact(artifact_id, ARTIFACT_NAME, ARTIFACT_MEDIA_TYPE, len(output), key)
    return RunOutput(encode_output(artifact_id=artifact_id), artifact)


def to_json(value: Any, *, shows_unknown: bool = False) -> bytes:
    """The value as JSON, as docs/values.md says. Raises TypeError and, by what serialisers of models do,
    anything else; with `shows_unknown` a value without a form in JSON is shown as the name of its type.
    """
    # In a list, as REST has it in an object: orjson writes 254 levels, here and there.
    return orjson.dumps([value], _default_or_name if shows_unknown else _default, _OPTIONS)[1:-1]


def words_of(error: Exception) -> str:
    """What `to_json` raised, for a person."""
    cause = error.__cause__ or error  # orjson says only that the function for other types has raised
    words = (str(cause) or type(cause).__name__)[:_MAX_WORDS]
    return words.encode("utf-8", "replace").decode()


def _default_or_name(value: Any) -> Any:
    try:
        return _default(value)
    except Exception:
        return f"<{type(value).__module__}.{type(value).__qualname__}>"


def _default(value: Any) -> Any:
    """A value of a type that orjson does not know, as one that it does."""
    if isinstance(value, BaseModel):  # LangChain's messages among them
        return value.model_dump(serialize_as_any=True)
    if isinstance(value, tuple):
        return value._asdict() if hasattr(value, "_asdict") else list(value)
    if isinstance(value, set | frozenset | deque):
        return list(value)
    if isinstance(value, _TEXT):
        return str(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes | bytearray | memoryview):
        return b64encode(value).decode()
    if isinstance(value, re.Pattern):
        return value.pattern
    kind = type(value)
    raise TypeError(f"a value of type '{kind.__module__}.{kind.__qualname__}' has no form in JSON")
