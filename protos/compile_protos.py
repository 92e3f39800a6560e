"""Compiles every .proto under runengine/ to *_pb2 modules beside it, and all of them to one descriptor set.

Hatchling runs it at each build and install (`[tool.hatch.build.hooks.custom]`), and
`make protos` runs it by hand. A .proto's path under protos/ is its Python import path, so
the generated imports need no rewriting. The descriptor set has what generated code does not: the comments,
of which the gateway makes its OpenAPI document, and what the buf.validate options mean.
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib.resources import files
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROTOS = Path(__file__).resolve().parent
_RULES = "buf/validate/validate.proto"


def _plugin(name: str) -> str:
    # In an isolated build the plugins are on PATH; in .venv they lie beside the interpreter.
    places = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    return f"--plugin={name}={shutil.which(name, path=places)}"


def compile_protos() -> None:
    """Raises RuntimeError when protoc refuses a file; it has printed why."""
    sources = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.glob("runengine/**/*.proto"))
    described = PROTOS / "runengine" / "v1" / "descriptors_pb2.binpb"
    _protoc(
        f"--proto_path={PROTOS}",
        f"--proto_path={PROTOS / 'vendor'}",
        f"--proto_path={files('grpc_tools') / '_proto'}",
        f"--descriptor_set_out={described}",
        "--include_imports",
        "--include_source_info",
        *sources,
    )
    protos = FileDescriptorSet.FromString(described.read_bytes())
    for file in protos.file:
        if file.name not in sources:
            file.ClearField("source_code_info")
    described.write_bytes(protos.SerializeToString())
    # No package has buf.validate's generated code, and what we put on the path for it would meet the user's
    # own. So our modules do without the import, and the options of fields are bytes that they keep unread.
    for file in protos.file:
        if _RULES in file.dependency:
            file.dependency.remove(_RULES)
    with NamedTemporaryFile() as without_rules:
        without_rules.write(protos.SerializeToString())
        without_rules.flush()
        _protoc(
            f"--descriptor_set_in={without_rules.name}",
            f"--python_out={PROTOS}",
            f"--grpc_python_out={PROTOS}",
            _plugin("protoc-gen-mypy"),
            f"--mypy_out=quiet:{PROTOS}",
            _plugin("protoc-gen-mypy_grpc"),
            f"--mypy_grpc_out=quiet:{PROTOS}",
            *sources,
        )


def _protoc(*arguments: str) -> None:
    if protoc.main(["protoc", *arguments]) != 0:
        raise RuntimeError("protoc failed")


class CompileProtos(BuildHookInterface):  # type: ignore[type-arg]  # hatchling's own default
    """The hook that hatchling finds in this file."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles before the files of a wheel, editable or not, are collected."""
        if self.target_name == "wheel":
            compile_protos()


if __name__ == "__main__":
    compile_protos()
