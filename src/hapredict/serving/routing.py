"""Which version answers a row: a pure function of the row's key and a split.

A key is mapped to a number in [0, 1) that depends on nothing but the key and the salt, and the
challenger answers the keys whose number is below its share. Growing the share therefore only
adds keys, every replica decides alike without talking to the others, and a new challenger (a new
salt) meets a new choice of keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Split:
    """Who answers, by version number.

    `share` of the keys is answered by `challenger`, unless `shadow` is set: then the challenger
    answers nobody and is only compared. `salt` chooses which keys come first.
    """

    champion: int
    challenger: int | None = None
    share: float = 0.0
    shadow: bool = False
    salt: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share={self.share}: expected a number from 0 to 1")

    @property
    def divides(self) -> bool:
        """Whether two versions answer, each some of the keys."""
        return self.challenger is not None and not self.shadow and self.share > 0


def share_of(key: str, salt: str) -> float:
    """A number in [0, 1) for a key: the same in every process, spread evenly over keys."""
    salted = f"{salt}\0{key}".encode("utf-8", "surrogatepass")
    return (int.from_bytes(blake2b(salted, digest_size=8).digest(), "big") >> 11) / (1 << 53)


def route(keys: Sequence[str], split: Split) -> NDArray[np.bool_]:
    """[len(keys)] bool: whether the challenger answers the row with that key."""
    if not split.divides:
        return np.zeros(len(keys), np.bool_)
    return np.array([share_of(key, split.salt) < split.share for key in keys], np.bool_)
