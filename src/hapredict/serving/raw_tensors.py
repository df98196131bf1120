"""Values of a tensor as bytes, as the Open Inference Protocol lays them out, and back.

Numbers stand side by side, little-endian. A text has its length in bytes before it, in 4 bytes.
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

NUMBERS = {
    "BOOL": "?",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""NumPy's name for each datatype of numbers; BYTES is the other one."""
DATATYPES = ("BOOL", "BYTES", *tuple(NUMBERS)[1:])
"""All, in the order in which errors list them."""

_LENGTH = struct.Struct("<I")


def values_of(datatype: str, raw: bytes) -> list[Any]:
    """The values in `raw`: numbers, or bytes for BYTES. Raises ValueError that says what is wrong.

    `datatype` is BYTES or one of NUMBERS.
    """
    if datatype == "BYTES":
        return _texts(raw)
    kind = np.dtype(NUMBERS[datatype])
    if len(raw) % kind.itemsize:
        message = f"has {len(raw)} bytes, which is no multiple of the {kind.itemsize} of {datatype}"
        raise ValueError(message)
    values: list[Any] = np.frombuffer(raw, kind).tolist()
    return values


def raw_of(datatype: str, values: Sequence[Any]) -> bytes:
    """The bytes of values; texts are written in UTF-8."""
    if datatype != "BYTES":
        return np.asarray(values, NUMBERS[datatype]).tobytes()
    texts = [value.encode() for value in values]
    return b"".join(piece for text in texts for piece in (_LENGTH.pack(len(text)), text))


def _texts(raw: bytes) -> list[bytes]:
    found: list[bytes] = []
    start, end = 0, len(raw)
    while start < end:
        first = start + _LENGTH.size
        if first > end:
            raise ValueError(f"ends inside the length of text {len(found)}")
        (length,) = _LENGTH.unpack_from(raw, start)
        start = first + length
        if start > end:
            raise ValueError(f"ends inside text {len(found)}, which has {length} bytes")
        found.append(raw[first:start])
    return found
