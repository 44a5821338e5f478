"""gRPC server reflection, v1 and v1alpha, also of services whose messages have a descriptor pool of their own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

_METHOD = "ServerReflectionInfo"


def enable(server: grpc.aio.Server, files: Iterable[FileDescriptor]) -> None:
    """Serve reflection for the services of these files, for reflection itself, and for the details of errors."""
    names, servicer = _described(tuple(files))
    handler = grpc.stream_stream_rpc_method_handler(
        getattr(servicer, _METHOD),
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    reflections = [name for name in names if name.startswith("grpc.reflection.")]
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(name, {_METHOD: handler}) for name in reflections)
    )


@cache  # it takes 30 ms, and each listener needs it
def _described(files: tuple[FileDescriptor, ...]) -> tuple[list[str], _Servicer]:
    """Return the names of all services, and what describes them."""
    pool, names = DescriptorPool(), []
    _add(error_details_pb2.DESCRIPTOR, pool)
    for file in (*files, reflection_pb2.DESCRIPTOR):
        _add(file, pool)
        names += [service.full_name for service in file.services_by_name.values()]
    [newer] = _v1_file(pool).services_by_name.values()
    names.append(newer.full_name)
    return names, _Servicer(names, pool)


class _Servicer(aio.ReflectionServicer):  # type: ignore[misc]
    """Knows methods too, which Python's descriptor pools do not find by their names."""

    def __init__(self, names: Iterable[str], pool: DescriptorPool) -> None:
        super().__init__(names, pool)
        self._methods = {method.full_name: name for name in names for method in pool.FindServiceByName(name).methods}

    def _file_containing_symbol(self, request: Any, fully_qualified_name: str) -> Any:
        name = self._methods.get(fully_qualified_name, fully_qualified_name)
        return super()._file_containing_symbol(request, name)


def _v1_file(pool: DescriptorPool) -> FileDescriptor:
    """Add the file of reflection v1, which is v1alpha's under another name: the messages are encoded alike."""
    older = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    newer = text_format.Parse(text_format.MessageToString(older).replace("v1alpha", "v1"), FileDescriptorProto())
    pool.AddSerializedFile(newer.SerializeToString())
    return pool.FindFileByName(newer.name)


def _add(file: FileDescriptor, pool: DescriptorPool) -> None:
    for needed in file.dependencies:
        _add(needed, pool)
    pool.AddSerializedFile(_with_json_names(file).SerializeToString())


def _with_json_names(file: FileDescriptor) -> FileDescriptorProto:
    """Return the file with its fields' names in JSON. Python's descriptors omit them, and ghz does not derive them."""
    found = FileDescriptorProto.FromString(file.serialized_pb)
    messages = [*found.message_type]
    for message in messages:  # those within a message follow after it
        messages += message.nested_type
        for field in message.field:
            field.json_name = field.json_name or re.sub("_+(.?)", lambda match: match[1].upper(), field.name)
    return found
