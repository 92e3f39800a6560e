"""The commands on artifacts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from runengine_client import tables
from runengine_client.command import NOT_DONE, Session, print_error
from runengine_client.json_view import artifacts_json
from runengine_client.run_commands import RunId


async def artifacts(session: Session, run_id: RunId) -> None:
    """Lists what the steps of a run have saved."""
    found = [each async for each in session.client.iterate_run_artifacts(run_id)]
    session.show(tables.artifacts_view(found, session.out), artifacts_json(found))


async def download(
    session: Session,
    artifact_id: Annotated[
        str, typer.Argument(metavar="ARTIFACT", help="Id or URL of the artifact.", show_default=False)
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to write, or - for stdout. Default: the artifact's own name, in this directory.",
        ),
    ] = None,
) -> None:
    """Saves an artifact to a file."""
    # `campaign get` shows the URL, so people paste that.
    artifact_id = urlsplit(artifact_id).path.rpartition("/")[2]
    artifact = await session.client.download_artifact(artifact_id)
    if output == "-":
        sys.stdout.buffer.write(artifact.data)
        return
    # The name comes from a workflow: it must stay in this directory, and must not overwrite a file.
    path = Path(output or Path(artifact.name).name or artifact_id)
    try:
        _save(path, artifact.data, replace=output is not None)
    except FileExistsError:
        print_error(session.err, f"{path} is there already; -o FILE saves it elsewhere, or over it")
        raise typer.Exit(NOT_DONE) from None
    except OSError as error:
        print_error(session.err, f"cannot write {path}: {error.strerror}")
        raise typer.Exit(NOT_DONE) from None
    size = len(artifact.data)
    session.show(
        tables.plain(f"{path}  {artifact.media_type}  {size:,} bytes"),
        {"file": str(path), "mediaType": artifact.media_type, "size": size},
    )


def _save(path: Path, data: bytes, *, replace: bool) -> None:
    with path.open("wb" if replace else "xb") as file:
        file.write(data)
