"""The messages of `inference.proto` as classes, built from its compiled form beside it.

No generated code: that of one protobuf release warns under the next and fails under the one after.
"""

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FILE = Path(__file__).with_name("inference.binpb")


def _descriptor() -> Any:
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(_FILE.read_bytes()).file
    # the common pool, because reflection describes services from there
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindFileByName(file.name)


DESCRIPTOR: Any = _descriptor()
(SERVICE,) = DESCRIPTOR.services_by_name.values()
"""The service: its methods, each with the messages that it takes and gives."""
MESSAGES: dict[str, Any] = {
    name: message_factory.GetMessageClass(found)
    for name, found in DESCRIPTOR.message_types_by_name.items()
}
"""The classes, by name."""

ModelInferRequest = MESSAGES["ModelInferRequest"]
ModelInferResponse = MESSAGES["ModelInferResponse"]
