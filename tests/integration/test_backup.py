"""What was dumped or backed up comes back whole on another server, and what is not whole is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from langgraph.runtime import Runtime
from runengine.context import RunContext
from runengine.v1.run_service_pb2 import ListCampaignRunsResponse
from runengine_server.database.database import Database
from runengine_server.database.integrity import find_damage
from runengine_server.processes import backup
from runengine_server.processes.migrate import migrate
from runengine_server.repositories.campaign_repository import CampaignRepository
from runengine_server.repositories.run_repository import RunRepository
from runengine_server.settings import Settings, SettingsError

from tests.support.own_worker import State, chain, events_of, serving
from tests.support.postgresql_servers import Server, empty_postgresql, installed


@asynccontextmanager
async def server_with_roles(version: int) -> AsyncIterator[Server]:
    async with empty_postgresql(version) as server:
        for role in ("runengine_owner LOGIN CREATEROLE", "runengine_app LOGIN"):
            assert server.client("psql", "-c", f"CREATE ROLE {role}").returncode == 0
        yield server


@pytest.fixture(scope="module", params=[18, 15])
async def servers(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Server, Server]]:
    """Two of one version."""
    if not installed(request.param):
        pytest.skip(f"PostgreSQL {request.param} is not installed")
    async with server_with_roles(request.param) as one, server_with_roles(request.param) as other:
        yield one, other


def new_database(server: Server) -> str:
    name = f"d_{uuid4().hex}"
    assert server.client("createdb", "-O", "runengine_owner", name).returncode == 0
    return name


def settings_of(server: Server, database: str, state_dir: Path) -> Settings:
    return Settings(
        database_url=server.url("runengine_app", database),
        owner_database_url=server.url("runengine_owner", database),
        state_dir=state_dir,
    )


async def keep(state: State, runtime: Runtime[RunContext]) -> State:
    if state.get("fail"):
        raise ValueError("naïve")
    return {"bundle_artifact_id": await runtime.context.save_artifact("a.txt", b"artifact", "text/plain")}


async def fill(settings: Settings) -> tuple[str, UUID]:
    """The tenant and the campaign of runs in every status, one of them with an artifact."""
    assert settings.database_url is not None
    await migrate(settings)
    campaign_id = uuid4()
    async with serving(settings.database_url, chain(keep=keep)) as engine:
        await engine.campaigns.insert(campaign_id)
        for payload in ({"n": 1}, {"fail": True}):
            await engine.trigger(payload, campaign_id)
            await engine.process(await engine.claim())
        await engine.cancel(await engine.trigger({}, campaign_id))
        await engine.trigger({}, campaign_id, priority=100)
        await engine.claim()
        await engine.trigger(None, campaign_id, {"large": "ä" * 50_000}, priority=-100)
        shutil.copytree(engine.directory, settings.artifact_directory)
        return engine.tenant_id, campaign_id


async def tables(server: Server, database: str) -> dict[str, list[str]]:
    """Every row, as a superuser sees them, but of the table that says when a server was last there."""
    connection = await asyncpg.connect(server.url("postgres", database))
    names = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        " AND relname <> 'function_schemas'"
    )
    found = {
        name: [row[0] for row in await connection.fetch(f"SELECT each::text FROM {name} AS each ORDER BY 1")]
        for (name,) in names
    }
    await connection.close()
    return found


async def responses(url: str, tenant_id: str, campaign_id: UUID) -> list[object]:
    """What the tenant is told of its campaign and its runs."""
    database = Database(url, 2)
    await database.open()
    assert await find_damage(database) is None
    scope = database.tenant(tenant_id)
    runs = RunRepository(scope)
    page = await runs.list_of_campaign(campaign_id, [], 20, 0, None)
    found: list[object] = [page, await CampaignRepository(scope).get(campaign_id)]
    for run in ListCampaignRunsResponse.FromString(page.runs).runs:
        run_id = UUID(run.id)
        found += [await runs.get(run_id), await runs.list_steps(run_id, None), await events_of(runs, run_id)]
    assert len(found) == 2 + 5 * 3
    await database.close()
    return found


@pytest.mark.parametrize("kind", ["plain", "custom"])
async def test_a_dump_is_restored_with_every_row_and_every_response(
    servers: tuple[Server, Server], tmp_path: Path, kind: str
) -> None:
    one, other = servers
    name, copy = new_database(one), new_database(other)
    before = settings_of(one, name, tmp_path)
    tenant_id, campaign_id = await fill(before)
    file = str(tmp_path / "dump")
    assert one.client("pg_dump", f"--format={kind}", f"--file={file}", name).returncode == 0
    if kind == "plain":
        restored = other.client("psql", "-v", "ON_ERROR_STOP=1", "-q", "-f", file, copy)
    else:
        restored = other.client("pg_restore", "--exit-on-error", "-d", copy, file)
    assert (restored.returncode, restored.stderr) == (0, "")
    assert await tables(one, name) == await tables(other, copy)
    after = settings_of(other, copy, tmp_path)
    told = [await responses(str(each.database_url), tenant_id, campaign_id) for each in (before, after)]
    assert told[0] == told[1]


async def test_a_backup_is_restored_with_its_artifacts_and_served(
    servers: tuple[Server, Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = servers
    before = settings_of(one, name := new_database(one), tmp_path / "before")
    after = settings_of(other, copy := new_database(other), tmp_path / "after")
    tenant_id, campaign_id = await fill(before)
    # A backup is one file of one moment; what comes later is not in it.
    file = tmp_path / "file.backup"
    await backup.backup(before, file)
    assert capsys.readouterr().out == f"{file}: 5 runs, 1 artifacts\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["before", "file.backup"]
    await backup.restore(after, file)
    expected, found = await tables(one, name), await tables(other, copy)
    assert expected == found
    told = [await responses(str(each.database_url), tenant_id, campaign_id) for each in (before, after)]
    assert told[0] == told[1]
    (artifact,) = (each for each in after.artifact_directory.rglob("*") if each.is_file())
    assert artifact.read_bytes() == b"artifact"


async def test_a_backup_that_is_not_whole_changes_nothing(
    servers: tuple[Server, Server], tmp_path: Path
) -> None:
    one, other = servers
    before = settings_of(one, new_database(one), tmp_path / "before")
    await fill(before)
    await backup.backup(before, whole := tmp_path / "whole")
    copy = new_database(other)
    after = settings_of(other, copy, tmp_path / "after")
    for size, words in (
        (0, "is no backup"), (700, "is no backup"), (whole.stat().st_size // 2, "backup"),
        (whole.stat().st_size - 12_000, "backup"),
    ):  # fmt: skip
        part = tmp_path / "part"
        part.write_bytes(whole.read_bytes()[:size])
        with pytest.raises(SettingsError, match=words):
            await backup.restore(after, part)
    changed = bytearray(whole.read_bytes())
    changed[5_000] ^= 1
    part.write_bytes(changed)
    with pytest.raises(SettingsError, match="is not all of a backup"):
        await backup.restore(after, part)
    with pytest.raises(SettingsError, match="cannot read"):
        await backup.restore(after, tmp_path / "absent")
    assert await tables(other, copy) == {}
    assert not after.artifact_directory.exists()


@pytest.fixture
def failing(servers: tuple[Server, Server], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH with programs of the servers' version that fail."""
    directory = tmp_path_factory.mktemp("failing")
    for name in ("pg_dump", "pg_restore"):
        program = directory / name
        program.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && exec {servers[0].binaries / name} --version\nexit 1\n'
        )
        program.chmod(0o755)
    return f"{directory}{os.pathsep}{os.environ['PATH']}"


async def test_backup_and_restore_say_what_stands_in_their_way(
    servers: tuple[Server, Server], failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = servers
    name = new_database(one)
    before = settings_of(one, name, tmp_path / "before")
    file = tmp_path / "file"

    async def refusal(call: Coroutine[Any, Any, None]) -> str:
        with pytest.raises(SettingsError) as refused:
            await call
        assert "\n" not in str(refused.value)
        return str(refused.value)

    assert "run `runengine-server migrate`" in await refusal(backup.backup(before, file))
    await fill(before)
    as_application = before.model_copy(update={"owner_database_url": None})
    assert "must be of the database's owner" in await refusal(backup.backup(as_application, file))
    elsewhere = before.model_copy(update={"state_dir": tmp_path / "elsewhere"})
    assert "no artifact that the database names is in" in await refusal(backup.backup(elsewhere, file))
    assert "cannot write" in await refusal(backup.backup(before, tmp_path / "absent" / "file"))
    with monkeypatch.context() as without:
        without.setenv("PATH", failing)
        assert "pg_dump failed" in await refusal(backup.backup(before, file))
    assert os.listdir(tmp_path) == ["before"]
    await backup.backup(before, file)
    assert "is there already" in await refusal(backup.backup(before, file))
    assert "is not empty" in await refusal(backup.restore(before, file))
    rows = await tables(one, name)
    assert "the database is not empty" in await refusal(backup.restore(elsewhere, file))
    assert await tables(one, name) == rows
    # A restore that fails in the middle leaves neither rows nor artifacts, and can be done again.
    after = settings_of(other, copy := new_database(other), tmp_path / "after")
    with monkeypatch.context() as without:
        without.setenv("PATH", failing)
        assert "pg_restore failed" in await refusal(backup.restore(after, file))
    assert not after.artifact_directory.exists()
    await backup.restore(after, file)
    assert (await tables(other, copy))["runs"] == rows["runs"]


# What a restore that went wrong leaves, or something worse.
DAMAGE = {
    "SET session_replication_role = replica; DELETE FROM runs":
        "the table runs is empty, but run_events is not",
    "ALTER TABLE run_steps DROP CONSTRAINT run_steps_tenant_id_run_id_fkey":
        "the table run_steps has no valid foreign key to runs",
    """ALTER TABLE artifacts DROP CONSTRAINT artifacts_tenant_id_run_id_fkey;
        ALTER TABLE artifacts ADD FOREIGN KEY (tenant_id, run_id) REFERENCES runs NOT VALID""":
        "the table artifacts has no valid foreign key to runs",
    "ALTER TABLE step_cache DROP CONSTRAINT step_cache_pkey": "the table step_cache has no primary key",
    "DROP TABLE run_events CASCADE": "a table is missing",
    "ALTER TABLE runs ALTER encoded_state DROP EXPRESSION": "the column runs.encoded_state is not generated",
    "DROP FUNCTION touch(timestamptz)": "the function touch(timestamptz) is missing",
}  # fmt: skip


@pytest.mark.parametrize("harm", DAMAGE)
async def test_damage_of_a_database_is_reported_in_words(
    servers: tuple[Server, Server], tmp_path: Path, harm: str
) -> None:
    one, _ = servers
    settings = settings_of(one, name := new_database(one), tmp_path)
    await migrate(settings)
    admin = await asyncpg.connect(one.url("postgres", name))
    await admin.execute(
        """INSERT INTO runs (tenant_id, id, workflow_name, encoded_input)
            VALUES ('org', '00000000-0000-0000-0000-000000000001', 'one', '');
        INSERT INTO run_events (tenant_id, run_id, at, to_status, attempt, actor, reason)
            VALUES ('org', '00000000-0000-0000-0000-000000000001', now(), 'queued', 1, 'user', 'TRIGGERED')"""
    )
    database = Database(str(settings.database_url), 1)
    await database.open()
    assert await find_damage(database) is None
    await admin.execute(harm)
    assert await find_damage(database) == DAMAGE[harm]
    await database.close()
    await admin.close()


def test_a_server_does_not_start_on_a_damaged_database(
    servers: tuple[Server, Server], tmp_path: Path
) -> None:
    one, _ = servers
    name = new_database(one)
    environment = {
        **os.environ,
        "RUNENGINE_DATABASE_URL": one.url("runengine_app", name),
        "RUNENGINE_OWNER_DATABASE_URL": one.url("runengine_owner", name),
        "RUNENGINE_STATE_DIR": str(tmp_path),
    }

    def command(name: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "runengine_server", name], env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    assert command("migrate").returncode == 0
    drop = "ALTER TABLE run_steps DROP CONSTRAINT run_steps_tenant_id_run_id_fkey"
    assert one.client("psql", "-d", name, "-c", drop).returncode == 0
    refused = command("worker")
    assert (refused.returncode, refused.stderr) == (
        1,
        "runengine-server: the database is damaged: the table run_steps has no valid foreign key to runs; "
        "restore it from a backup\n",
    )
