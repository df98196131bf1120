"""Trains for a replay, each lesson once: policies that ask for the same rows share its model."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hapredict.errors import NotFound
from hapredict.registry.store import Store, decode_json, encode_json
from hapredict.replay.past import Past
from hapredict.spec import Spec
from hapredict.training.alone import Learned, learn, prepare
from hapredict.training.export import Exported
from hapredict.training.finish import Finish
from hapredict.training.fitted import EpochReport, Fitted, hash_of, pack_arrays, unpack_arrays
from hapredict.training.prepared import Recipe
from hapredict.training.rules import what_to_learn

Tell = Callable[[str], None]


class CachedLearner:
    """Models of one past. What was learned is kept in memory, and in a store if there is one."""

    def __init__(
        self,
        past: Past,
        spec: Spec,
        *,
        kept: Store | None = None,
        code: str = "",
        tell: Tell = lambda _: None,
        threads: int = 1,
    ) -> None:
        """`code` changes with whatever decides what is learned: models of other code are not used.

        `tell` hears what goes on.
        """
        self._past, self._spec, self._kept, self._tell = past, spec, kept, tell
        self._code, self._threads = code, threads
        self._recipe = Recipe.of(spec.data, spec.features, spec.training)
        self._known: dict[str, Learned] = {}
        self.fitted = 0
        """Trainings that were not found among those made before."""

    def learn(self, rows: NDArray[np.int64]) -> Learned:
        """A model of these rows. Raises DataError, TrainingFailed, GateRefused."""
        key = self._key(rows)
        if key not in self._known:
            self._known[key] = self._read(key, rows) or self._learn(key, rows)
        return self._known[key]

    def _key(self, rows: NDArray[np.int64]) -> str:
        prepared = self._recipe.key(rows=self._past.digest(rows), code=self._code)
        return hash_of([prepared, what_to_learn(self._spec.training)])[:32]

    def _learn(self, key: str, rows: NDArray[np.int64]) -> Learned:
        self.fitted += 1

        def on_epoch(report: EpochReport) -> None:
            self._tell(f"training on {len(rows):,} rows: {report.epoch} of {report.epochs}")

        learned = learn(
            *self._past.lesson(rows),
            self._recipe,
            self._spec.training,
            key=key,
            on_epoch=on_epoch,
            threads=self._threads,
        )
        # weights are in the artefact too
        fitted = replace(learned.fitted, weights=b"", history=())
        learned = replace(learned, fitted=fitted)
        self._write(key, learned)
        return learned

    def _write(self, key: str, learned: Learned) -> None:
        if self._kept is None:
            return
        exported, fitted = learned.exported, learned.fitted
        told = {
            "source_name": exported.source_name,
            "parity": exported.parity,
            "rows": exported.rows,
            "report": exported.report,
            "epochs": fitted.epochs,
            "best_epoch": fitted.best_epoch,
            "notes": list(fitted.notes),
        }
        parts = (encode_json(told), exported.onnx, exported.source)
        arrays = [np.frombuffer(part, np.uint8) for part in parts]
        self._kept.put(f"{key}.npz", pack_arrays(arrays))

    def _read(self, key: str, rows: NDArray[np.int64]) -> Learned | None:
        if self._kept is None:
            return None
        with suppress(NotFound):
            arrays = unpack_arrays(self._kept.get(f"{key}.npz"))
            told = decode_json(arrays[0].tobytes(), key)
            prepared, _ = prepare(*self._past.lesson(rows), self._recipe, key=key)
            exported = Exported(
                arrays[1].tobytes(),
                arrays[2].tobytes(),
                told["source_name"],
                told["parity"],
                told["rows"],
                Finish(),
                told["report"],
            )
            fitted = Fitted(b"", told["epochs"], told["best_epoch"], (), notes=(*told["notes"],))
            return Learned(prepared, fitted, exported)
        return None
