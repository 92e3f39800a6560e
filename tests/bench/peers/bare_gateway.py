"""What REST over gRPC costs at least with these libraries: uvicorn calls a server by grpc.aio for each
request, and answers the same bytes whatever it says. Nothing is checked, bounded, or turned into JSON.

Arguments: the address to listen on, that of the gRPC server, a file with the answer.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
import uvicorn
import uvloop
from runengine.v1.run_service_pb2 import ListCampaignRunsRequest


class Server(uvicorn.Server):
    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        sys.stdout.write("ready\n")
        sys.stdout.flush()


async def main(address: str, grpc_address: str, body: bytes) -> None:
    host, _, port = address.rpartition(":")
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    async with grpc.aio.insecure_channel(grpc_address) as channel:
        call: Any = channel.unary_unary("/runengine.v1.RunService/ListCampaignRuns")

        async def app(scope: Any, receive: Any, send: Any) -> None:
            token = dict(scope["headers"])[b"authorization"].decode()
            request = ListCampaignRunsRequest(campaign_id=scope["path"].split("/")[2])
            await call(request.SerializeToString(), metadata=(("authorization", token),), timeout=10)
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})

        config = uvicorn.Config(
            app, host=host, port=int(port), http="httptools", ws="none", lifespan="off", access_log=False,
            log_level="warning", server_header=False, date_header=False, proxy_headers=False,
        )  # fmt: skip
        await Server(config).serve()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]).read_bytes()))
