"""Rows to scores with NumPy and ONNX Runtime alone, as one would write it by hand.

The same arithmetic as hapredict's plan: numbers are centred and scaled, 0 and a flag where missing;
a category is the place of its level, 0 where missing and 1 where never seen.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

FOLDER_VARIABLE = "BENCH_FOLDER"
"""Where `bench_model.py` wrote the model, for servers whose framework makes the process."""
THREADS = 1


class Scorer:
    """The model, loaded. Values of a row come in the order of `names`."""

    def __init__(self, folder: str | Path | None = None) -> None:
        folder = Path(folder or os.environ[FOLDER_VARIABLE])
        told = json.loads((folder / "encoder.json").read_text())
        self.numbers = tuple(name for name, _, _ in told["numbers"])
        self.categories = tuple(name for name, _ in told["categories"])
        self.names = (*self.numbers, *self.categories)
        self._means = np.array([mean for _, mean, _ in told["numbers"]])
        self._scales = np.array([scale for _, _, scale in told["numbers"]])
        self._codes: list[Callable[..., int]] = [
            {None: 0, **{level: 2 + place for place, level in enumerate(levels)}}.get
            for _, levels in told["categories"]
        ]
        self._in_order = itemgetter(*self.names)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.inter_op_num_threads = THREADS
        self._session = onnxruntime.InferenceSession(
            folder / "network.onnx", options, providers=["CPUExecutionProvider"]
        )

    def of_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """One score a row, for rows with named values."""
        return self.of_values([self._in_order(row) for row in rows])

    def of_values(self, rows: Sequence[Sequence[Any]]) -> list[float]:
        """One score a row, for rows whose values are in order."""
        count = len(self.numbers)
        numbers = np.array([row[:count] for row in rows], np.float64)
        codes = [
            [code(level, 1) for code, level in zip(self._codes, row[count:], strict=True)]
            for row in rows
        ]
        missing = np.isnan(numbers)
        scaled = (numbers - self._means) / self._scales
        scaled[missing] = 0.0
        matrix = np.concatenate([scaled, missing], axis=1, dtype=np.float32)
        feed = {"numbers": matrix, "categories": np.array(codes, np.int32)}
        scores: list[float] = self._session.run(["scores"], feed)[0][:, 0].tolist()
        return scores
