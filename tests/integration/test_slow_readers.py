"""A reader of a download may be as slow as it likes while it reads; one that does not is let go of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from runengine.v1.artifact_service_pb2 import DownloadArtifactRequest, DownloadArtifactResponse
from runengine_server.auth import development
from runengine_server.auth.clerk import ClerkVerifier, PemKey
from runengine_server.processes.gateway import gateway_channel_options
from runengine_server.rpc import interceptor
from runengine_server.rpc.interceptor import CallInterceptor, StreamLimit

from tests.support.own_worker import SECONDS
from tests.support.stack import free_address

CHUNK = 64 * 1024
CHUNKS = 24 * 16  # 24 MiB


class Large:
    """A download that says how much of it has been taken from it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.taken = 0
        self.ended = asyncio.Event()

    async def download(self, request: DownloadArtifactRequest, context: Any) -> AsyncIterator[Any]:
        try:
            for _ in range(CHUNKS):
                yield DownloadArtifactResponse(data=bytes(CHUNK))
                self.taken += CHUNK
        finally:
            self.ended.set()


@pytest.fixture
async def large(state_dir: Path) -> AsyncIterator[Large]:
    verifier = ClerkVerifier(PemKey(development.public_pem(state_dir)), development.ISSUER, ())
    server = grpc.aio.server(
        interceptors=[CallInterceptor(verifier, downloads=StreamLimit("downloads", 64, 1, 1, "downloads"))]
    )
    large = Large(free_address())
    handler = grpc.unary_stream_rpc_method_handler(
        large.download, DownloadArtifactRequest.FromString, DownloadArtifactResponse.SerializeToString
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("runengine.v1.ArtifactService", {"DownloadArtifact": handler}),)
    )
    server.add_insecure_port(large.address)
    await server.start()
    yield large
    await server.stop(0)


def call(channel: grpc.aio.Channel, state_dir: Path) -> Any:
    token = development.sign(state_dir, "org", "user", 3600)
    method: Any = channel.unary_stream(
        "/runengine.v1.ArtifactService/DownloadArtifact",
        request_serializer=DownloadArtifactRequest.SerializeToString,
        response_deserializer=DownloadArtifactResponse.FromString,
    )
    return method(DownloadArtifactRequest(), metadata=(("authorization", f"Bearer {token}"),))


async def all_of(download: Any) -> int:
    size = 0
    while (message := await download.read()) is not grpc.aio.EOF:
        size += len(message.data)
    return size


async def test_a_reader_that_takes_nothing_is_told_so_and_frees_its_place(
    large: Large, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptor, "READER_SECONDS", 0.2)
    # Each on a connection of its own: what is not read of one stream holds up its connection.
    own = [("grpc.use_local_subchannel_pool", 1)]
    async with (
        grpc.aio.insecure_channel(large.address, own) as channel,
        grpc.aio.insecure_channel(large.address, own) as other,
    ):
        stuck = call(channel, state_dir)
        await stuck.read()
        async with asyncio.timeout(SECONDS):
            await large.ended.wait()
        assert large.taken < CHUNKS * CHUNK
        # Its tenant may have one download, and has it again.
        monkeypatch.setattr(interceptor, "READER_SECONDS", SECONDS)
        async with asyncio.timeout(SECONDS):
            while True:
                try:
                    assert await all_of(call(other, state_dir)) == CHUNKS * CHUNK
                    break
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                        raise
        with pytest.raises(grpc.aio.AioRpcError) as cut:
            await asyncio.wait_for(all_of(stuck), SECONDS)
        assert cut.value.code() is grpc.StatusCode.ABORTED


async def test_the_server_sees_a_slow_reader_of_the_gateway_go_on_every_few_chunks(
    large: Large, state_dir: Path
) -> None:
    """Credit that comes in jumps of megabytes looks like a reader that has stopped in between."""
    async with grpc.aio.insecure_channel(large.address, gateway_channel_options(large.address)) as channel:
        download = call(channel, state_dir)
        read = 0
        while large.taken < CHUNKS * CHUNK:
            before, jump = large.taken, 0
            while large.taken == before and read < CHUNKS * CHUNK and jump < 16 * CHUNK:
                message = await asyncio.wait_for(download.read(), SECONDS)
                read += len(message.data)
                jump += len(message.data)
                await asyncio.sleep(0.002)
            # What was read has made room: the server takes it before any more is read.
            async with asyncio.timeout(SECONDS):
                while large.taken == before:  # noqa: ASYNC110
                    await asyncio.sleep(0.002)
