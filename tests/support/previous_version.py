"""A version of the product from before, out of git's history, whose processes run beside those of today.

It has its own code alone: a virtual environment with the packages that are installed here, and in place of
today's source roots its own, workflows included. Nothing is fetched.
"""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.stack import ROOT, environment

SOURCE_ROOTS = ("server", "client", "protos", "samples")

# A commit, in place of those that are found.
REVISION = "PREVIOUS_REVISION"

# What is executed in place of the product, by a child process that is to be of that version.
LAUNCHER = __name__
_PYTHON = "PREVIOUS_PYTHON"

_MIGRATIONS, _SQL = ":(glob)server/**/versions/[0-9]*.py", ":(glob)server/**/*.sql"


def _git(*arguments: str, stdin: str | None = None) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=True, text=True).stdout


def previous_commits() -> list[str]:
    """The last commit with other migrations than today's, and the last with other SQL: two, or one that is
    both; none without git, or where the history has none.
    """
    try:
        if not Path(_git("rev-parse", "--show-toplevel").strip()).samefile(ROOT):
            return []  # a copy that lies in somebody else's repository
        if revision := os.environ.get(REVISION):
            return [_git("rev-parse", "--verify", f"{revision}^{{commit}}").strip()]
        touching = _git("rev-list", "--first-parent", "HEAD", "--", _MIGRATIONS, _SQL).split()
        # Between two commits that touch them they are the same. The first commit of all has no parent.
        candidates = ["HEAD", *(f"{commit}^" for commit in touching)]
        known = _git("rev-parse", *candidates[:-1]).split()
        found = [
            next((commit for commit in known if names(commit) != today), None)
            for names, today in ((_migrations_of, _migrations_here()), (_sql_of, _sql_here()))
        ]
    except (OSError, subprocess.CalledProcessError):
        return []
    return sorted({commit for commit in found if commit is not None})


def _migrations_here() -> set[str]:
    return {path.name for path in ROOT.glob("server/**/versions/[0-9]*.py")}


def _migrations_of(commit: str) -> set[str]:
    """Their names, for no migration changes once it has been released, except in what it imports."""
    listed = _git("ls-tree", "-r", "--name-only", commit, "--", "server").splitlines()
    paths = map(Path, listed)
    return {path.name for path in paths if path.parent.name == "versions" and path.name[0].isdigit()}


def _sql_here() -> set[str]:
    paths = "\n".join(str(path) for path in ROOT.glob("server/**/*.sql"))
    return set(_git("hash-object", "--stdin-paths", stdin=paths).split())


def _sql_of(commit: str) -> set[str]:
    """The hashes of what the files say, wherever they stand."""
    rows = map(str.split, _git("ls-tree", "-r", commit, "--", "server").splitlines())
    return {blob for _, _, blob, path in rows if path.endswith(".sql")}


@dataclass(frozen=True)
class PreviousVersion:
    """`python` is the interpreter that finds its code; what is put into `modules` is found too. `source` has
    all its files.
    """

    python: Path
    modules: Path
    source: Path

    @classmethod
    def extracted(cls, commit: str, directory: Path) -> PreviousVersion:
        """Into the directory, which is empty. Raises CalledProcessError."""
        source, modules, environ = directory / "source", directory / "modules", directory / "venv"
        archive = ["git", "-C", str(ROOT), "archive", "--format=tar", commit]
        packed = subprocess.run(archive, capture_output=True, check=True).stdout
        # Python 3.11.2 has no filters yet; git has packed what is in its own history.
        filters: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            tar.extractall(source, **filters)
        modules.mkdir()
        project = tomllib.loads((source / "pyproject.toml").read_text())
        roots = [source / each for each in project["tool"]["hatch"]["build"]["dev-mode-dirs"]]
        venv.create(environ, symlinks=True)
        # Of a directory that is named in a .pth file no .pth file is read: that of today's roots is none.
        paths = [*roots, modules, *{sysconfig.get_path(each) for each in ("purelib", "platlib")}]
        (library,) = environ.glob("lib/python*/site-packages")
        (library / "previous.pth").write_text("".join(f"{path}\n" for path in paths))
        subprocess.run([sys.executable, source / "protos/compile_protos.py"], check=True)
        return cls(environ / "bin" / "python", modules, source)

    @property
    def settings(self) -> dict[str, str]:
        """With LAUNCHER, what a Stack starts a process of this version by."""
        return {_PYTHON: str(self.python)}

    async def run(self, *command: str, **settings: str) -> None:
        """One of its commands, to its end. Raises CalledProcessError."""
        environ = environment(**settings)
        del environ["PYTHONPATH"]
        arguments = ("-m", "runengine_server", *command)
        process = await asyncio.create_subprocess_exec(self.python, *arguments, env=environ)
        if code := await process.wait():
            raise subprocess.CalledProcessError(code, command)


def main() -> None:
    """Becomes the process of that version, with the same arguments, descriptors and settings."""
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    python = environ.pop(f"RUNENGINE_{_PYTHON}")
    os.execve(python, [python, "-m", "runengine_server", *sys.argv[1:]], environ)


if __name__ == "__main__":
    main()
