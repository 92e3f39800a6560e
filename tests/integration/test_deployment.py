"""The files of deploy/ agree with the product, and with each other."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
import typer.main
import yaml
from runengine_server.__main__ import cli
from runengine_server.settings import Settings

from tests.support.own_worker import chain, serving
from tests.support.stack import ROOT

Json = dict[str, Any]

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPOSE: Json = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
MANIFESTS: list[Json] = [
    each for path in sorted(KUBERNETES.rglob("*.yaml")) for each in yaml.safe_load_all(path.read_text())
]
PORTS = ("grpc", "rest", "metrics")
ARTIFACTS = "/var/lib/runengine/artifacts"

# How long a process takes to end besides: a worker that cancels nodes, hands back and closes; a server whose
# calls and requests under way have three seconds.
WORKER_ENDS_SECONDS, SERVER_ENDS_SECONDS = 5, 3


def _of_kind(kind: str) -> dict[str, Json]:
    return {each["metadata"]["name"]: each for each in MANIFESTS if each["kind"] == kind}


def _pods() -> dict[str, Json]:
    """The pods of Deployments and Jobs by name, each of which has one container."""
    return {
        name: each["spec"]["template"]["spec"]
        for name, each in {**_of_kind("Deployment"), **_of_kind("Job")}.items()
    }


def _environment(container: Json) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container["env"]}


def _base_settings() -> dict[str, str]:
    """What the base gives all processes but `migrate`."""
    (generator,) = yaml.safe_load((KUBERNETES / "base/kustomization.yaml").read_text())["configMapGenerator"]
    return dict(each.split("=", 1) for each in generator["literals"])


def _processes() -> dict[str, tuple[str, dict[str, str], float]]:
    """Of each process, by where it stands: command, environment, seconds to stop once it is told to."""
    found = {}
    for name, service in COMPOSE.items():
        if name != "postgresql":
            seconds = float(service.get("stop_grace_period", "10s").removesuffix("s"))
            found[f"compose {name}"] = (*service["command"], service["environment"], seconds)
    for name, pod in _pods().items():
        (container,) = pod["containers"]
        waits = container.get("lifecycle", {}).get("preStop", {"exec": {"command": ["sleep", "0"]}})
        sleep, before = waits["exec"]["command"]
        assert sleep == "sleep"
        seconds = pod.get("terminationGracePeriodSeconds", 30) - float(before)
        found[f"kubernetes {name}"] = (*container["args"], _environment(container), seconds)
    return found


PROCESSES = _processes()


def test_each_variable_is_a_setting() -> None:
    said = "\n".join(path.read_text() for path in DEPLOY.rglob("*") if path.is_file())
    named = set(re.findall(r"RUNENGINE_([A-Z_]*[A-Z])", said))
    assert named <= {field.upper() for field in Settings.model_fields}


def test_each_command_is_one_of_the_server() -> None:
    commands: Json = typer.main.get_command(cli).commands  # type: ignore[attr-defined]
    started = {command for command, _, _ in PROCESSES.values()}
    assert started == {"serve", "worker", "gateway", "migrate"}
    assert started <= set(commands)
    (entry_point,) = re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)
    (program,) = json.loads(entry_point)  # of one word in brackets: no shell, which would keep SIGTERM
    assert program in PROJECT["scripts"]


def test_each_process_has_time_to_end() -> None:
    for where, (command, environment, seconds) in PROCESSES.items():
        if command == "worker":
            drain = float(environment["RUNENGINE_DRAIN_SECONDS"])
            assert drain >= Settings.model_fields["drain_seconds"].default
            assert seconds >= drain + WORKER_ENDS_SECONDS, where
        else:
            assert seconds > SERVER_ENDS_SECONDS, where


def test_the_owner_of_the_schema_is_for_migrate_alone() -> None:
    for where, (command, environment, _) in PROCESSES.items():
        assert ("RUNENGINE_OWNER_DATABASE_URL" in environment) == (command == "migrate"), where
        assert ("RUNENGINE_DATABASE_URL" in environment) == (command != "gateway"), where


def test_no_secret_stands_in_a_manifest() -> None:
    for name, pod in _pods().items():
        for each in pod["containers"][0]["env"]:
            assert ("valueFrom" in each) == each["name"].endswith("DATABASE_URL"), name
    assert not _of_kind("Secret")


def test_each_port_is_the_one_of_its_address() -> None:
    exposed = {int(port) for port in re.findall(r"\d+", re.findall(r"^EXPOSE .*$", DOCKERFILE, re.M)[0])}
    assert exposed == {
        int(Settings.model_fields[field].default.rpartition(":")[2])
        for field in ("grpc_address", "rest_address")
    }
    for name, pod in _pods().items():
        (container,) = pod["containers"]
        ports = {each["name"]: each["containerPort"] for each in container.get("ports", [])}
        given = {**(_base_settings() if "envFrom" in container else {}), **_environment(container)}
        addresses = {kind: given.get(f"RUNENGINE_{kind.upper()}_ADDRESS", "") for kind in PORTS}
        assert ports == {
            kind: int(address.rpartition(":")[2])
            for kind, address in addresses.items()
            if address.startswith("0.0.0.0:")
        }
        if "rest" in ports:
            service = _of_kind("Service")[name]["spec"]
            offered = {each["targetPort"]: each["port"] for each in service["ports"]}
            assert offered == {kind: port for kind, port in ports.items() if kind != "metrics"}
            assert ports["rest"] == 8080  # of the probe in compose.yaml
    assert _environment(_pods()["gateway"]["containers"][0])["RUNENGINE_GRPC_ADDRESS"] == "serve:50051"


async def test_each_probe_asks_for_what_is_there(rest: httpx.AsyncClient) -> None:
    paths = set(re.findall(r"http://127\.0\.0\.1:8080(/\w+)", (DEPLOY / "compose.yaml").read_text()))
    for name, pod in _pods().items():
        (container,) = pod["containers"]
        probes = [probe for key, probe in container.items() if key.endswith("Probe")]
        assert bool(probes) == (name in ("serve", "gateway")), name
        for probe in probes:
            if "httpGet" in probe:
                paths.add(probe["httpGet"]["path"])
            else:  # no service is named, so it is the server's own
                assert probe["grpc"] == {"port": 50051}
    assert paths == {"/healthz", "/readyz"}
    for path in paths:
        assert (await rest.get(path, headers={"authorization": ""})).status_code == 200


def test_each_pod_is_held_back() -> None:
    (user,) = re.findall(r"^USER (\d+):\d+$", DOCKERFILE, re.MULTILINE)
    for name, pod in _pods().items():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"].get("fsGroup", int(user)) == int(user)
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"], name
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}, name
    for name, service in COMPOSE.items():
        assert name == "postgresql" or service["read_only"]


def test_artifacts_lie_where_the_image_has_them() -> None:
    state_dir = re.findall(r"RUNENGINE_STATE_DIR=(\S+)", DOCKERFILE)
    assert state_dir == [ARTIFACTS.removesuffix("/artifacts")]
    assert Settings(state_dir=Path(state_dir[0])).artifact_directory == Path(ARTIFACTS)
    for command, mode in (("serve", ":ro"), ("worker", "")):
        assert COMPOSE[command]["volumes"] == [f"artifacts:{ARTIFACTS}{mode}"]
        mounts = {each["name"]: each for each in _pods()[command]["containers"][0]["volumeMounts"]}
        assert mounts["artifacts"]["mountPath"] == ARTIFACTS
        assert mounts["artifacts"].get("readOnly", False) == bool(mode)


def test_the_image_is_made_of_what_is_there() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
        for source in line.split()
    }
    assert copied == let_in
    assert all((ROOT / source).exists() for source in copied)
    extras = PROJECT["optional-dependencies"]
    (extra,) = re.findall(r"\[([a-z-]+)\]\"", DOCKERFILE)
    assert "runengine[" + extra + "]" in extras["server"]
    assert not [each for each in extras[extra] if each.startswith("pixeltable")]
    images = {COMPOSE["serve"]["image"].partition(":-")[2].rstrip("}")}
    images |= {pod["containers"][0]["image"] for pod in _pods().values()}
    assert images == {f"runengine:{PROJECT['version']}"}


def test_each_file_of_a_kustomization_is_there() -> None:
    for path in KUBERNETES.rglob("kustomization.yaml"):
        named = yaml.safe_load(path.read_text())
        for each in (*named["resources"], *named.get("components", ())):
            assert (path.parent / each).exists()


@pytest.fixture
async def own_database(database_url: str) -> AsyncIterator[str]:
    """One that no other test writes to."""
    name = f"scaled_{uuid4().hex}"
    admin = await asyncpg.connect(database_url.replace("runengine_app@", "postgres@"))
    await admin.execute(f"CREATE DATABASE {name} OWNER runengine_owner TEMPLATE runengine")
    yield re.sub(r"/test_\w+", f"/{name}", database_url)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.execute("DROP ROLE engine_scaler")
    await admin.close()


async def test_the_scaler_counts_the_runs_of_all_tenants_and_reads_nothing_else(own_database: str) -> None:
    owner = await asyncpg.connect(own_database.replace("runengine_app@", "runengine_owner@"))
    await owner.execute((KUBERNETES / "keda/scaler-role.sql").read_text())
    await owner.close()
    (trigger,) = _of_kind("ScaledObject")["worker"]["spec"]["triggers"]
    assert trigger["metadata"]["targetQueryValue"] == str(Settings.model_fields["worker_concurrency"].default)
    scaler = await asyncpg.connect(own_database.replace("runengine_app@", "engine_scaler@"))

    async def wanted() -> float:
        ((value,),) = await scaler.fetch(trigger["metadata"]["query"])
        return float(value)

    graph = chain(one=lambda state: {})
    async with serving(own_database, graph) as one, serving(own_database, graph) as another:
        assert await wanted() == 0
        await one.trigger()
        await another.trigger()
        assert await wanted() == 2
        for _ in range(2):  # the second waits for its turn, and no worker could take it
            await one.trigger(context={"threadId": "thread"})
        assert await wanted() == 3
        run = await another.claim()
        assert await wanted() == 3
        await another.process(run)
        assert await wanted() == 2
    for column in ("tenant_id", "encoded_input"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await scaler.fetch(f"SELECT {column} FROM public.runs")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await scaler.execute("UPDATE public.runs SET status = 'cancelled'")
    await scaler.close()
