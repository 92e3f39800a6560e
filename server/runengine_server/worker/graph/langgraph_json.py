"""A `langgraph.json`, the file that describes a project to LangGraph's own server."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import structlog
from dotenv import dotenv_values

# What has a meaning for the package manager, the image or an editor, and none while graphs run.
_NOT_FOR_RUNS = frozenset(
    {"$schema", "base_image", "dockerfile_lines", "image_distro", "keep_pkg_tools", "pip_config_file"}
    | {"pip_installer", "python_version", "node_version", "api_version"}
)
_USED = frozenset({"graphs", "env", "dependencies"})

_log = structlog.get_logger()


class Unusable(Exception):
    """An entry of RUNENGINE_WORKFLOWS cannot be used. The message is one line: which, why, what to do."""


def first_line(error: BaseException) -> str:
    """The type and the first line of an error."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def read_langgraph_json(path: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The names of its graphs, each with a function that imports and returns what stands there, or raises
    Unusable.

    Its `env` is set before, without replacing a variable that is set; its directory, and those that
    `dependencies` names, are added to `sys.path`. Raises Unusable where the file cannot be read or followed.
    """
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Unusable(f"cannot read {path} ({first_line(error)})") from error
    graphs = described.get("graphs") if isinstance(described, dict) else None
    if not isinstance(graphs, dict) or not all(graphs):
        raise Unusable(f"{path} must have `graphs`, an object from name to ./file.py:attribute")
    directory = path.parent.resolve()
    _set_environment(path, directory, described.get("env", {}))
    _add_to_path(path, directory, described.get("dependencies", []))
    if unused := sorted(described.keys() - _USED - _NOT_FOR_RUNS):
        _log.info("keys of a langgraph.json have no effect here", path=str(path), keys=unused)
    for name, value in graphs.items():
        yield name, partial(_import, f"{name!r} of {path}", directory, value)


def _set_environment(path: Path, directory: Path, env: Any) -> None:
    if isinstance(env, str):
        if not (directory / env).is_file():
            raise Unusable(f"{path} names the file {env} as its `env`, and there is none")
        env = dotenv_values(directory / env)
    if not isinstance(env, dict):
        raise Unusable(f"{path} must have the path of a file or an object as its `env`")
    for name, value in env.items():
        if value is not None:
            os.environ.setdefault(name, str(value))


def _add_to_path(path: Path, directory: Path, dependencies: Any) -> None:
    if not isinstance(dependencies, list) or not all(isinstance(each, str) for each in dependencies):
        raise Unusable(f"{path} must have a list of strings as its `dependencies`")
    for each in (".", *dependencies):
        found = directory / each
        if found.is_dir():
            if str(found.resolve()) not in sys.path:
                sys.path.append(str(found.resolve()))
        elif each.startswith("."):
            raise Unusable(f"{path} names the directory {each} among its `dependencies`, and there is none")


def _import(where: str, directory: Path, value: Any) -> Any:
    source = value.get("path") if isinstance(value, dict) else value
    place, _, attribute = source.rpartition(":") if isinstance(source, str) else ("", "", "")
    if not place or not attribute:
        raise Unusable(
            f"{where} must be ./file.py:attribute or module:attribute, or an object with such a `path`"
        )
    is_file = "/" in place or place.endswith(".py")
    if is_file and not place.endswith(".py"):
        raise Unusable(f"{where} is {place}; only graphs in Python run here")
    try:
        module = _import_file(directory, place) if is_file else importlib.import_module(place)
        return getattr(module, attribute)
    except Exception as error:
        raise Unusable(
            f"{where} cannot be imported ({first_line(error)}); what it imports must be installed, "
            "or lie in a directory that `dependencies` names"
        ) from error


def _import_file(directory: Path, place: str) -> ModuleType:
    """The module that the file is; once, for however many graphs. Its name is the same on every worker,
    because what is stored of a state names the modules of its classes.
    """
    file = (directory / place).resolve()
    name = "__" + re.sub(r"\W+", "__", place.removesuffix(".py")).strip("_")
    while (known := sys.modules.get(name)) is not None:
        if known.__file__ == str(file):
            return known
        name += "_"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{place} is no module")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
