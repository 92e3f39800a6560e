"""The comments of the protos, in the words of REST."""

import re
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import Message

from runengine_gateway.routes import Binding

_PACKAGE = "runengine.v1"


def proto_comments() -> dict[str, str]:
    """Full name → the comment above it, as one line; a file's own comment is under the file's name.

    protoc drops comments from the code it generates, and keeps them in the descriptor set beside it.
    """
    packed = files("runengine.v1").joinpath("descriptors_pb2.binpb").read_bytes()
    comments: dict[str, str] = {}
    for file in FileDescriptorSet.FromString(packed).file:
        for location in file.source_code_info.location:
            name = _name_at(file, location.path) if location.leading_comments else None
            if name is not None:
                comments[name] = " ".join(location.leading_comments.split())
    return comments


_SYNTAX_LINE = [12]


def _name_at(file: Any, path: Iterable[int]) -> str | None:
    """The full name at a path of SourceCodeInfo, which is pairs of a field of the descriptor and an index."""
    steps = list(path)
    if steps == _SYNTAX_LINE:
        return str(file.name)
    names: list[str] = [file.package]
    at: Message = file
    for number, index in zip(steps[::2], steps[1::2], strict=False):
        field = at.DESCRIPTOR.fields_by_number.get(number)
        if field is None or field.message_type is None or not field.is_repeated:
            return None  # an option, or another part of a declaration
        at = getattr(at, field.name)[index]
        names.append(getattr(at, "name", ""))
    return ".".join(names)


class RestComments:
    """The comments with JSON names, with paths for RPCs, and with statuses in lower case."""

    def __init__(self, rules: list[Binding]) -> None:
        self._comments = proto_comments()
        self._words = {rule.rpc.name: f"`{rule.http_method} {json_path(rule)}`" for rule in rules}
        messages: dict[str, Descriptor] = {}
        for rule in rules:
            _collect(rule.rpc.input_type, messages)
            _collect(rule.rpc.output_type, messages)
        for field in (field for message in messages.values() for field in message.fields):
            if "_" in field.name:
                self._words[field.name] = field.json_name

    def of(self, full_name: str) -> str:
        """The comment of this declaration; empty where it has none."""
        # Text in double quotes is to be typed literally.
        text = re.sub(r'"[^"]*"|\w+', lambda word: self._words.get(word[0], word[0]), self.raw(full_name))
        return re.sub("(?<=tatus is )[A-Z]+", lambda word: f"`{word[0].lower()}`", text)

    def raw(self, full_name: str) -> str:
        """The comment as the proto has it."""
        return self._comments.get(full_name, "")


def _collect(message: Descriptor, found: dict[str, Descriptor]) -> None:
    if message.full_name not in found and message.file.package == _PACKAGE:
        found[message.full_name] = message
        for field in message.fields:
            if field.message_type is not None:
                _collect(field.message_type, found)


def json_path(rule: Binding) -> str:
    """The path with the JSON names of its fields: `/runs/{runId}`."""
    fields = rule.rpc.input_type.fields_by_name
    return re.sub(r"\{(\w+)\}", lambda match: "{" + fields[match[1]].json_name + "}", rule.path)
