"""Tensors as bytes: the raw form that the Open Inference Protocol has over HTTP and over gRPC.

Little-endian, row after row, nothing between the elements. An element of BYTES is its length, an
unsigned integer of four bytes, and then its bytes, which must be UTF-8 here.
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    **{
        f"{sign}INT{8 * size}": np.dtype(f"<{kind}{size}")
        for sign, kind in (("", "i"), ("U", "u"))
        for size in (1, 2, 4, 8)
    },
    **{f"FP{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}
"""Datatypes that NumPy has. BF16 and BYTES are read and written beside them."""
DATATYPES = ("BOOL", "BYTES", *list(DTYPES)[1:], "BF16")

_LENGTH = struct.Struct("<I")


def from_bytes(
    datatype: str, raw: bytes | bytearray | memoryview, count: int
) -> NDArray[Any] | list[str]:
    """The `count` elements in `raw`: an array, which looks at `raw` itself; texts for BYTES.

    `datatype` is one of DATATYPES. Raises ValueError with a sentence that follows a tensor's name.
    """
    if datatype == "BYTES":
        return _texts(raw, count)
    size = 2 if datatype == "BF16" else DTYPES[datatype].itemsize
    if len(raw) != count * size:
        message = f"holds {len(raw)} bytes; {count} values of {datatype} are {count * size}"
        raise ValueError(message)
    if datatype == "BF16":  # the upper half of a FP32
        upper = np.frombuffer(raw, "<u2").astype(np.uint32)
        return (upper << 16).view(np.float32)
    if datatype == "BOOL":
        flags = np.frombuffer(raw, np.uint8)
        if len(flags) and flags.max() > 1:
            message = f"holds the byte {flags.max()}; a BOOL is one byte, 0 or 1"
            raise ValueError(message)
        return flags.view(np.bool_)
    return np.frombuffer(raw, DTYPES[datatype])


def to_bytes(datatype: str, data: NDArray[Any] | Sequence[Any]) -> bytes:
    """The bytes of a flat tensor. None becomes NaN in floats.

    Raises ValueError, TypeError or OverflowError for values that the datatype does not have.
    """
    if datatype == "BYTES":
        texts = [text.encode() for text in data]
        return b"".join([part for text in texts for part in (_LENGTH.pack(len(text)), text)])
    if datatype == "BF16":
        bits = np.asarray(data, dtype="<f4").view(np.uint32)
        # to the nearest, and of two equally near ones to the even one
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        rounded = np.where(np.isnan(bits.view("<f4")), 0x7FC0, rounded)
        return rounded.astype("<u2").tobytes()
    return np.asarray(data, dtype=DTYPES[datatype]).tobytes()


def _texts(raw: bytes | bytearray | memoryview, count: int) -> list[str]:
    texts: list[str] = []
    view, place, end = memoryview(raw), 0, len(raw)
    while place < end:
        start = place + _LENGTH.size
        if start > end:
            message = f"ends within the length of element {len(texts)}"
            raise ValueError(message)
        place = start + _LENGTH.unpack_from(view, place)[0]
        if place > end:
            message = f"ends within element {len(texts)}, which is to have {place - start} bytes"
            raise ValueError(message)
        try:
            texts.append(str(view[start:place], "utf-8"))
        except UnicodeDecodeError as error:
            message = f"has an element {len(texts)} that is not UTF-8: {error.reason}"
            raise ValueError(message) from None
    if len(texts) != count:
        message = f"holds {len(texts)} elements where its shape says {count}"
        raise ValueError(message)
    return texts
