"""Artifacts in a bucket: stored, read, swept, and handed out by URLs that expire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from langgraph.runtime import Runtime
from obstore.store import S3Store
from runengine.context import RunContext
from runengine.v1.run_service_pb2 import TriggerRunRequest
from runengine_server.commands.trigger_run import check_trigger, trigger_run
from runengine_server.domain.errors import Unavailable
from runengine_server.processes.open_artifacts import open_artifact_store
from runengine_server.repositories.artifact_bucket import ArtifactBucket
from runengine_server.repositories.artifact_store import ArtifactDirectory, ArtifactStore, StoredArtifact
from runengine_server.repositories.run_repository import RunRepository
from runengine_server.settings import Settings, SettingsError
from runengine_server.worker import artifact_sweep
from runengine_server.worker.artifact_sweep import ArtifactSweep
from runengine_server.worker.graph.output import MAX_OUTPUT_BYTES
from structlog.testing import capture_logs

from tests.support.own_worker import ACTOR, chain, serving
from tests.support.s3_server import ENVIRONMENT, PYTHON, S3Server, s3_server
from tests.support.stack import Stack, free_address
from tests.support.token_forge import generated

needs_moto = pytest.mark.skipif(not PYTHON.exists(), reason="needs `make moto`")

ODD_TENANT = "org/../ä%2E.#1"


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[S3Server]:
    async with s3_server() as server:
        yield server


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, at which what is opened in this test is."""
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server.url}.items():
        monkeypatch.setenv(name, value)
    return server


async def save(state: Any, runtime: Runtime[RunContext]) -> dict[str, Any]:
    saved = await runtime.context.save_artifact("ä.html", b"<script>", "text/html")
    assert await runtime.context.read_artifact(saved) == b"<script>"
    # An output that is an artifact too, and larger than what S3 takes in parts by default.
    return {"seen": ["x" * 12 * MAX_OUTPUT_BYTES]}


@needs_moto
async def test_a_bucket_has_what_runs_save_and_is_swept_of_what_has_no_row(
    s3: S3Server, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact_sweep, "OLD_SECONDS", -2.0)
    store = ArtifactBucket(f"s3://{s3.bucket}/swept", None)
    await store.check()
    async with serving(database_url, chain(save=save)) as engine:
        engine.deploy(chain(save=save), store=store)
        run_id = (await engine.execute()).id
        kept = await s3.keys("swept/")
        assert len(kept) == 2
        for key in kept:
            found = await S3Store(s3.bucket).get_async(key)
            assert found.attributes["Content-Disposition"].startswith("attachment; filename*=UTF-8''")
            # Of what is stored in parts it ends with their number; and they stay when a worker is killed.
            assert "-" not in str(found.meta["e_tag"])
        new = check_trigger(TriggerRunRequest(workflow_name=engine.workflow))
        odd = RunRepository(engine.database.tenant(ODD_TENANT))
        await trigger_run(odd, new, ACTOR, None, None)
        kept.add(await put(store, s3, engine.tenant_id, uuid4()))
        kept.add(await put(store, s3, "org_other", run_id))
        left = {await put(store, s3, *of) for of in ((engine.tenant_id, run_id), (ODD_TENANT, new.id))}
        assert await s3.keys("swept/") == kept | left
        await ArtifactSweep(engine.database, store).sweep()
        assert await s3.keys("swept/") == kept


async def put(store: ArtifactBucket, s3: S3Server, tenant_id: str, run_id: UUID) -> str:
    """The key in the bucket of bytes that no row tells of."""
    key = store.key(tenant_id, run_id, uuid4())
    await store.put(key, b"left", "left.txt", "text/plain")
    return f"swept/{key}"


@needs_moto
async def test_a_bundle_is_handed_out_by_a_url_that_expires_and_streamed_to_its_tenant_alone(
    s3: S3Server, database_url: str, state_dir: Path
) -> None:
    stack = Stack(database_url, state_dir)
    stack.settings |= {"ARTIFACTS_URL": f"s3://{s3.bucket}/e2e", "BUNDLE_URL_SECONDS": "900"}
    await stack.start("serve", rest_by="serve")
    # Of a workflow that other workers on the database, whose artifacts are elsewhere, do not serve.
    await stack.start("worker", WORKFLOWS="tests.support.graphs:IN_A_BUCKET")
    try:
        mine = stack.token(organisation := f"org_{uuid4().hex}")
        async with stack.client(mine) as client, stack.rest(mine) as rest, httpx.AsyncClient() as nobody:
            campaign = await client.create_campaign()
            run = await client.trigger_run("bundling-in-a-bucket", context={"campaignId": campaign.id})
            await client.wait_for_output(run.id)
            url = (await client.get_campaign(campaign.id)).bundle_url
            assert parse_qs(urlsplit(url).query)["X-Amz-Expires"] == ["900"]
            assert ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] not in url
            response = await nobody.get(url)
            assert (response.status_code, response.content) == (200, b"bundle")
            assert response.headers["content-type"] == "text/plain"
            assert response.headers["content-disposition"] == "attachment; filename*=UTF-8''bundle.txt"
            bundle_id = urlsplit(url).path.rpartition("/")[2]
            stored = {key for key in await s3.keys("e2e/") if key.endswith(bundle_id)}
            assert [key.split("/")[:2] for key in stored] == [["e2e", organisation]]
            # The stored URL is not the one that expires.
            again = (await rest.get(f"/campaigns/{campaign.id}")).json()
            assert again["bundleUrl"].partition("?")[0] == url.partition("?")[0]
            assert again["updatedAt"] == (await rest.get(f"/campaigns/{campaign.id}")).json()["updatedAt"]
            response = await rest.get(f"/artifacts/{bundle_id}")
            assert (response.status_code, response.content) == (200, b"bundle")
            assert response.headers["content-security-policy"] == "sandbox"
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["content-disposition"].startswith("attachment;")
        async with stack.rest(stack.token("org_other")) as other:
            assert (await other.get(f"/artifacts/{bundle_id}")).status_code == 404
            assert (await other.get(f"/campaigns/{campaign.id}")).status_code == 404
    finally:
        await stack.stop()


@pytest.fixture(params=["directory", pytest.param("bucket", marks=needs_moto)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "directory":
        return ArtifactDirectory(tmp_path)
    s3: S3Server = request.getfixturevalue("s3")
    return ArtifactBucket(f"s3://{s3.bucket}/{uuid4()}", None)


async def test_both_stores_keep_list_and_delete_alike(store: ArtifactStore) -> None:
    run_id, ids = uuid4(), [UUID(int=n) for n in range(4)]
    keys = [store.key(ODD_TENANT, run_id, each) for each in ids]
    contents = b"", b"one", b"x" * 200_000
    for key, data in zip(keys, contents, strict=False):
        await store.put(key, data, "ä/b.txt", "text/plain")
    for key, data in zip(keys, contents, strict=False):
        chunks = [chunk async for chunk in store.read(key)]
        assert b"".join(chunks) == data
        assert all(len(chunk) <= 64 << 10 for chunk in chunks)
    stored = [each async for page in store.older_than(-2) for each in page]
    assert set(stored) == {StoredArtifact(ODD_TENANT, run_id, each) for each in ids[:3]}
    assert [each async for page in store.older_than(3600) for each in page] == []
    with pytest.raises(FileNotFoundError):
        [chunk async for chunk in store.read(keys[3])]
    # What is not there is deleted as well.
    await store.delete_all([keys[3], keys[0], keys[1]])
    await store.delete(keys[3])
    assert {each.artifact_id async for page in store.older_than(-2) for each in page} == {ids[2]}
    await store.delete(keys[2])
    assert [each async for page in store.older_than(-2) for each in page] == []


SETTINGS = Settings(artifacts_url="s3://a-bucket/p")


@asynccontextmanager
async def responding(status: str, body: str) -> AsyncIterator[str]:
    """The URL of a server that gives everybody this response."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


REFUSALS = {
    "404 Not Found": ("NoSuchBucket", "there is no such bucket (NoSuchBucket)"),
    "403 Forbidden": (
        "SignatureDoesNotMatch",
        "it refuses the credentials in the environment (SignatureDoesNotMatch)",
    ),
    "301 Moved Permanently": ("PermanentRedirect", "it is in another region: set AWS_REGION"),
}


@pytest.mark.parametrize("status", REFUSALS)
async def test_a_bucket_that_cannot_be_used_is_refused_in_one_line_without_a_secret(
    monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    code, words = REFUSALS[status]
    key = ENVIRONMENT["AWS_ACCESS_KEY_ID"]
    body = f"<Error><Code>{code}</Code><AWSAccessKeyId>{key}</AWSAccessKeyId></Error>"
    async with responding(status, body) as url:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": url}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SettingsError) as refused:
            await open_artifact_store(SETTINGS)
    assert str(refused.value) == f"RUNENGINE_ARTIFACTS_URL: s3://a-bucket/p cannot be used: {words}"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"AWS_ENDPOINT_URL": "http://" + free_address()}, "it does not respond"),
        ({"AWS_SECRET_ACCESS_KEY": None}, "the credentials in the environment: SecretAccessKey is missing"),
        ({"AWS_ENDPOINT_URL": ""}, "AWS_ENDPOINT_URL is empty"),
    ],
)
async def test_an_environment_that_leads_to_no_bucket_is_refused_so_too(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, str | None], words: str
) -> None:
    for name, value in {**ENVIRONMENT, **changed}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        await open_artifact_store(SETTINGS)
    assert str(refused.value) == f"RUNENGINE_ARTIFACTS_URL: s3://a-bucket/p cannot be used: {words}"


async def test_a_bucket_that_fails_is_unavailable_to_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    async with responding("403 Forbidden", "") as url:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": url}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(Unavailable, match="bucket"), capture_logs() as logged:
            async for _ in ArtifactBucket("s3://a-bucket", None).read("a/b/c"):
                pass
    told = [(line["log_level"], line["why"]) for line in logged]
    assert told == [("error", "it refuses the credentials in the environment")]


async def test_a_url_that_expires_needs_a_bucket(tmp_path: Path) -> None:
    for url in (None, f"file://{tmp_path}/a"):
        with pytest.raises(SettingsError, match="RUNENGINE_BUNDLE_URL_SECONDS needs"):
            await open_artifact_store(Settings(state_dir=tmp_path, artifacts_url=url, bundle_url_seconds=60))
    await open_artifact_store(Settings(artifacts_url=f"file://{tmp_path}/a"))
    assert (tmp_path / "a").is_dir()


async def test_a_url_of_google_is_signed_with_the_key_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pem = generated().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    account = {"client_email": "a@b.example", "private_key": pem, "private_key_id": "1"}
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps({"type": "service_account", **account}))
    url = await ArtifactBucket("gs://a-bucket/p", 60).presigned("org%2Fa/b/c")
    assert url is not None
    assert url.startswith("https://storage.googleapis.com/a-bucket/p/org%252Fa/b/c?")
    assert parse_qs(urlsplit(url).query)["X-Goog-Expires"] == ["60"]
