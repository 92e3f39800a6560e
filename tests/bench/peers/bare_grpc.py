"""A bare grpc.aio server on uvloop, as `serve` is, that answers one request's bytes from memory.

Arguments: its address, and a directory in which METHOD files hold the answers.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import uvloop


def _handler(answer: bytes) -> Any:
    async def handle(request: bytes, context: Any) -> bytes:
        return answer

    return grpc.unary_unary_rpc_method_handler(handle)


async def serve(address: str, answers: dict[str, bytes]) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers = {method: _handler(answer) for method, answer in answers.items()}
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("runengine.v1.RunService", handlers)]
    )
    server.add_insecure_port(address)
    await server.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    answers = {path.name: path.read_bytes() for path in Path(sys.argv[2]).iterdir()}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(sys.argv[1], answers))
