"""The messages of `inference.proto` as classes, built from its compiled form beside it.

No generated code: that of one protobuf release warns under the next and fails under the one after.
Names are the protocol's, so they are kept apart from those of clients in the same process.
"""

import logging
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

log = logging.getLogger(__name__)

_FILE = Path(__file__).with_name("inference.binpb")


def _descriptor() -> Any:
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(_FILE.read_bytes()).file
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindFileByName(file.name)


DESCRIPTOR: Any = _descriptor()
(SERVICE,) = DESCRIPTOR.services_by_name.values()
"""The service: its methods, each with the messages that it takes and gives."""
MESSAGES: dict[str, Any] = {
    name: message_factory.GetMessageClass(found)
    for name, found in DESCRIPTOR.message_types_by_name.items()
}
"""The classes, by name; each is also an attribute of this module."""

for _name, _class in MESSAGES.items():  # where pickles look, by which Serve's proxy hands them on
    _class.__module__ = __name__
    globals()[_name] = _class

ModelInferRequest = MESSAGES["ModelInferRequest"]
ModelInferResponse = MESSAGES["ModelInferResponse"]


def describe(pool: Any = None) -> bool:
    """Let reflection describe the service, which looks into the process's common pool.

    False if another library's messages have the names already; then it describes those.
    """
    try:
        (pool or descriptor_pool.Default()).AddSerializedFile(DESCRIPTOR.serialized_pb)
    except TypeError as error:
        log.warning("reflection describes the messages of another library: %s", error)
        return False
    return True
