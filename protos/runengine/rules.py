"""What may a field hold? What the options in the protos say: buf.validate, and google.api.field_behavior."""

from functools import cache
from importlib.resources import files
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass


def is_required(field: FieldDescriptor) -> bool:
    """Whether a request has to have this field."""
    return field_behavior_pb2.REQUIRED in field.GetOptions().Extensions[field_behavior_pb2.field_behavior]


def rules_of(field: FieldDescriptor) -> dict[str, Any]:
    """The buf.validate rules of the field by their paths: `string.uuid`, `repeated.items.enum.not_in`."""
    options, extension = _reader()
    rules: dict[str, Any] = {}
    _collect(options.FromString(field.GetOptions().SerializeToString()).Extensions[extension], "", rules)
    return rules


def _collect(said: Message, path: str, rules: dict[str, Any]) -> None:
    for field, value in said.ListFields():
        if field.message_type is not None and not field.is_repeated:
            _collect(value, f"{path}{field.name}.", rules)
        else:
            rules[path + field.name] = list(value) if field.is_repeated else value


@cache
def _reader() -> tuple[type[Message], Any]:
    """FieldOptions that know buf.validate, in a pool of their own, and its extension. Generated code keeps
    the rules as bytes (source: compile_protos).
    """
    packed = files("runengine.v1").joinpath("descriptors_pb2.binpb").read_bytes()
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(packed).file:
        if file.package in ("google.protobuf", "buf.validate"):
            pool.AddSerializedFile(file.SerializeToString())
    options = GetMessageClass(pool.FindMessageTypeByName("google.protobuf.FieldOptions"))
    return options, pool.FindExtensionByName("buf.validate.field")
