"""The URLs of the embedded PostgreSQL.

It listens on a Unix socket alone, in a directory that other users cannot enter.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

OWNER, DATABASE = "runengine_owner", "runengine"
_APPLICATION = "runengine_app"


def running_urls(state_dir: Path) -> tuple[str, str] | None:
    """(owner's, application's) URL of the server that runs in `state_dir`, None when none does."""
    try:
        lines = (state_dir / "postgres" / "postmaster.pid").read_text().splitlines()
        os.kill(int(lines[0]), 0)
    except PermissionError:
        pass  # it runs, under another user
    except (OSError, ValueError, IndexError):
        return None
    return owner_url(lines[4]), application_url(lines[4])


def owner_url(socket_dir: str) -> str:
    """The URL for the owner of the schema."""
    return _url(OWNER, DATABASE, socket_dir)


def application_url(socket_dir: str) -> str:
    """The URL for the application's role."""
    return _url(_APPLICATION, DATABASE, socket_dir)


def superuser_url(socket_dir: str) -> str:
    """The URL for the superuser, to the database that every server has."""
    return _url("postgres", "postgres", socket_dir)


def _url(role: str, database: str, socket_dir: str) -> str:
    return f"postgresql://{role}@/{database}?host={quote(socket_dir)}"
