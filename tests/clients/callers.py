"""gRPC clients that nobody here wrote, each in a process of its own, called with JSON."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypedDict

from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2

from tests.support.stack import ROOT

PROTOS = ROOT / "protos"
NODE = ROOT / "tests/node/grpc"
BUF = Path(sys.executable).parent / "buf"
HAS_NODE = shutil.which("node") is not None and (NODE / "node_modules").is_dir()

_MAX_LINE_BYTES = 16 * 1024 * 1024

Json = dict[str, Any]


class Told(NamedTuple):
    """How a call ended: what came, in protobuf's JSON mapping, and the error, if any."""

    messages: list[Json]
    trailer: dict[str, str]
    error: Json | None

    @property
    def only(self) -> Json:
        """The response of a call that answers once, and did."""
        assert self.error is None, self.error
        (message,) = self.messages
        return message

    def detail(self, name: str) -> Json:
        """The detail of this type, such as ErrorInfo, of the error."""
        assert self.error is not None
        (found,) = (each for each in self.error["details"] if each["@type"].endswith(f"google.rpc.{name}"))
        return dict(found)


class Asked(TypedDict):
    """A call, as tests/node/grpc/agent.mjs has it."""

    address: str
    method: str
    request: Json
    metadata: dict[str, str]
    timeoutMs: int | None
    cancelAfter: int | None


class Caller(Protocol):
    async def call(self, asked: Asked) -> Told: ...


class Agent:
    """A client that is told on its stdin what to call, and tells on its stdout what came."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, *command: str | Path, **environment: str) -> Agent:
        environ = {**os.environ, **environment}
        return cls(
            await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, env=environ, limit=_MAX_LINE_BYTES
            )
        )

    async def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    async def call(self, asked: Asked) -> Told:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        line = await self._process.stdout.readline()
        assert line, "the client's process has ended"
        return Told(**json.loads(line))


class BufCurl:
    """A process a call. It can neither set a deadline nor cancel, and learns the messages by reflection."""

    async def call(self, asked: Asked) -> Told:
        headers = [
            word for key, value in asked["metadata"].items() for word in ("--header", f"{key}: {value}")
        ]
        process = await asyncio.create_subprocess_exec(
            BUF, "curl", "--http2-prior-knowledge", "--protocol", "grpc", "--verbose", *headers,
            "--data", json.dumps(asked["request"]), f"http://{asked['address']}/{asked['method']}",
            stdout=PIPE, stderr=PIPE, cwd="/",
        )  # fmt: skip
        out, err = await process.communicate()
        log = err.decode().splitlines()
        mark = "buf: < (#2) "  # what came; #1 is reflection
        received = (line.removeprefix(mark).partition(": ") for line in log if line.startswith(mark))
        received_metadata = {key.lower(): value for key, _, value in received}
        decoder, messages, rest = json.JSONDecoder(), [], out.decode().strip()
        while rest:
            message, end = decoder.raw_decode(rest)
            messages.append(message)
            rest = rest[end:].lstrip()
        if process.returncode == 0:
            return Told(messages, received_metadata, None)
        error = json.loads("".join(line for line in log if not line.startswith("buf: ")))
        details = [
            {"@type": f"type.googleapis.com/{each['type']}", **_decoded(each["type"], each["value"])}
            for each in error.get("details", ())
        ]
        return Told(messages, received_metadata, {**error, "code": error["code"].upper(), "details": details})


def _decoded(name: str, encoded: str) -> Json:
    kind = getattr(error_details_pb2, name.rpartition(".")[2])
    value = base64.b64decode(encoded + "=" * (-len(encoded) % 4))
    return dict(MessageToDict(kind.FromString(value)))
