"""A histogram of floats that adds up exactly, whatever the order and the split.

A float's 64 bits, read as an ordered integer, number all floats from the smallest to the largest.
Values are counted by that integer without its low `drop` bits; `drop` is the smallest one with
which at most 4,096 buckets are occupied. So few distinct values are counted one by one, and many
share buckets whose width is small against the spread of the data, at any magnitude.

The smallest `drop` of a part is never above that of the whole, for a part occupies no more
buckets; bringing two parts to the coarser `drop` and going on from there therefore ends where the
whole would have ended. That makes `+` commutative and associative to the bit.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BUCKETS_MAX = 4096
"""Occupied buckets. Much less would not do: there are 4,094 pairs of sign and exponent."""

_LARGEST = int(np.float64(np.finfo(np.float64).max).view(np.int64))


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of finite floats by bucket, in growing order. Immutable."""

    drop: int = 0
    keys: tuple[int, ...] = ()
    """Ordered integers of the buckets' floats, shifted right by `drop`."""
    counts: tuple[int, ...] = ()

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "Histogram":
        """The histogram of finite values [rows]; -0.0 counts as 0.0."""
        keys, counts = np.unique(ordered(values), return_counts=True)
        return _build(0, keys, counts)

    def __add__(self, other: "Histogram") -> "Histogram":
        if not other.keys:
            return self
        if not self.keys:
            return other
        drop = max(self.drop, other.drop)
        keys = np.concatenate([_array(part.keys) >> (drop - part.drop) for part in (self, other)])
        counts = np.concatenate([_array(self.counts), _array(other.counts)])
        order = np.argsort(keys, kind="stable")
        return _build(drop, keys[order], counts[order])

    @property
    def lower(self) -> NDArray[np.float64]:
        """The smallest finite float of each bucket."""
        return _float_at(_array(self.keys) << self.drop)

    @property
    def upper(self) -> NDArray[np.float64]:
        """The largest finite float of each bucket."""
        return _float_at((_array(self.keys) << self.drop) | ((1 << self.drop) - 1))

    def to_json(self) -> dict[str, Any]:
        """The histogram as plain JSON values, exactly."""
        return {"drop": self.drop, "keys": list(self.keys), "counts": list(self.counts)}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Histogram":
        """The histogram that `to_json` wrote."""
        return cls(raw["drop"], tuple(raw["keys"]), tuple(raw["counts"]))


def ordered(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Integers that grow with the floats: the next float has the next integer, 0.0 has 0."""
    bits = np.abs(np.asarray(values, dtype=np.float64)).view(np.int64)
    return np.where(values < 0, -bits, bits)


def unordered(keys: NDArray[np.int64]) -> NDArray[np.float64]:
    """The floats of `ordered` integers."""
    return np.copysign(np.abs(keys).view(np.float64), keys)


def _float_at(keys: NDArray[np.int64]) -> NDArray[np.float64]:
    # The outermost buckets reach into the patterns of infinity.
    return unordered(np.clip(keys, -_LARGEST, _LARGEST))


def _build(drop: int, keys: NDArray[np.int64], counts: NDArray[np.int64]) -> Histogram:
    """The histogram of sorted keys, coarse enough to fit."""
    if not len(keys):
        return Histogram()
    # Two neighbours part at every shift below the length of what differs between them.
    part = _bit_length(keys[1:] ^ keys[:-1])
    buckets = 1 + np.cumsum(np.bincount(part, minlength=65)[::-1])[::-1]  # [d]: with part >= d
    more = int(np.argmax(buckets[1:] <= BUCKETS_MAX))
    starts = np.flatnonzero(np.concatenate([[True], part > more]))
    return Histogram(
        drop + more,
        tuple((keys[starts] >> more).tolist()),
        tuple(np.add.reduceat(counts, starts).tolist()),
    )


def _bit_length(values: NDArray[np.int64]) -> NDArray[np.int64]:
    bits = values.view(np.uint64)
    # 32 bits at a time, since a float cannot hold 64 and would round up to the next length.
    high, low = bits >> np.uint64(32), bits & np.uint64(0xFFFF_FFFF)
    half = np.where(high > 0, high, low).astype(np.float64)
    return np.frexp(half)[1].astype(np.int64) + np.where(high > 0, 32, 0)


def _array(values: tuple[int, ...]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)
