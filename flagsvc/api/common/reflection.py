"""gRPC server reflection for all services, including those whose messages have a descriptor pool of their own."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection, reflection_pb2


def enable(server: grpc.aio.Server, files: Iterable[FileDescriptor]) -> None:
    """Serve reflection for the services of these files and for reflection itself."""
    pool, names = DescriptorPool(), []
    for file in (*files, reflection_pb2.DESCRIPTOR):
        _add(file, pool)
        names += [service.full_name for service in file.services_by_name.values()]
    reflection.enable_server_reflection(names, server, pool)


def _add(file: FileDescriptor, pool: DescriptorPool) -> None:
    for needed in file.dependencies:
        _add(needed, pool)
    pool.AddSerializedFile(file.serialized_pb)
