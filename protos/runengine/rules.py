"""What may a field hold? What the options in the protos say: buf.validate, and google.api.field_behavior."""

from functools import cache
from importlib.resources import files
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass


def is_required(field: FieldDescriptor) -> bool:
    """Whether a request has to have this field."""
    return field_behavior_pb2.REQUIRED in field.GetOptions().Extensions[field_behavior_pb2.field_behavior]


def rules_of(field: FieldDescriptor) -> dict[str, Any]:
    """The buf.validate rules of the field by their paths: `string.uuid`, `repeated.items.enum.not_in`."""
    options, extension = _reader("FieldOptions", "field")
    rules: dict[str, Any] = {}
    _collect(options.FromString(field.GetOptions().SerializeToString()).Extensions[extension], "", rules)
    return rules


def alternatives_of(message: Descriptor) -> list[str]:
    """The fields of which a request has exactly one; none where the message has no such rule.

    Raises TypeError for a rule of messages that is not known here.
    """
    options, extension = _reader("MessageOptions", "message")
    rules: dict[str, Any] = {}
    _collect(options.FromString(message.GetOptions().SerializeToString()).Extensions[extension], "", rules)
    match rules:
        case rules if not rules:
            return []
        case {"oneof": [one_of], **others} if one_of.required and not others:
            return list(one_of.fields)
        case rules:
            raise TypeError(f"{message.full_name} has rules that are not known here: {', '.join(rules)}")


def _collect(said: Message, path: str, rules: dict[str, Any]) -> None:
    for field, value in said.ListFields():
        if field.message_type is not None and not field.is_repeated:
            _collect(value, f"{path}{field.name}.", rules)
        else:
            rules[path + field.name] = list(value) if field.is_repeated else value


@cache
def _reader(kind: str, extension: str) -> tuple[type[Message], Any]:
    """Options of this kind that know buf.validate, in a pool of their own, and its extension of them.
    Generated code keeps the rules as bytes (source: compile_protos).
    """
    pool = _pool()
    options = GetMessageClass(pool.FindMessageTypeByName(f"google.protobuf.{kind}"))
    return options, pool.FindExtensionByName(f"buf.validate.{extension}")


@cache
def _pool() -> DescriptorPool:
    packed = files("runengine.v1").joinpath("descriptors_pb2.binpb").read_bytes()
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(packed).file:
        if file.package in ("google.protobuf", "buf.validate"):
            pool.AddSerializedFile(file.SerializeToString())
    return pool
