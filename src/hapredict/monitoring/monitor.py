"""The monitor: all that is known of live traffic, as a fold over the journal.

The state after a set of parts depends on those parts and their order, on the catalog and on
nothing else; it has no clock and reads no store. A part is folded once, whoever offers it how
often. So the state can be written down at any moment, and a monitor that goes on from it ends
where one that never stopped would.

Losses are on the scale of the champion at the moment when the label is joined.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema
from hapredict.errors import BadRequest, CorruptBundle, PermanentError
from hapredict.monitoring.betting import PairedEvidence
from hapredict.monitoring.champion import Champion, View
from hapredict.monitoring.labels import Joined, LabelJoin
from hapredict.monitoring.report import MonitorReport, Paired
from hapredict.monitoring.windows import Watermark
from hapredict.registry.bundle import Bundle
from hapredict.registry.catalog import CatalogState
from hapredict.sections import DAY_S
from hapredict.sections_live import MonitoringSpec
from hapredict.serving.journal import NO_VERSION, Label, PredictionPart
from hapredict.training.metrics import losses

_FORMAT = 2
_VIEWS_MAX = 8
"""Versions whose view is kept: late labels are about versions that have left service."""


class Monitor:
    """Counts, evidence and joined labels of one model."""

    def __init__(self, model: str) -> None:
        self.model = model
        self._positions: dict[str, dict[str, int]] = {"predictions": {}, "labels": {}}
        self._watermark = Watermark()
        self._rows = 0
        self._join = LabelJoin()
        self._views: dict[int, View] = {}
        self._champion: Champion | None = None
        self._paired: dict[tuple[int, int], PairedEvidence] = {}
        self._labels: dict[int, int] = {}
        self._losses: dict[int, float] = {}
        self._joined = 0
        self._unreadable = 0

    @property
    def positions(self) -> Mapping[str, Mapping[str, int]]:
        """The last part folded of each source, for "predictions" and for "labels"."""
        return self._positions

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a part's table that `fold_predictions` looks at."""
        return ()

    def on_catalog(self, state: CatalogState, bundle_of: Callable[[int], Bundle]) -> None:
        """Follow the catalog: compare with the champion's reference, know who else scores.

        A new champion, also one that returns, starts with fresh windows and detectors and with
        fresh comparisons, so that its time of watch is judged by what happens in it. Raises what
        `bundle_of` raises for the champion; another version that cannot be loaded is passed over
        if trying again cannot help.
        """
        if state.champion is not None:
            self._know(state.champion, bundle_of)
        for number in (state.challenger, state.previous):
            if number is not None:
                try:
                    self._know(number, bundle_of)
                except PermanentError:  # replicas refuse it too, and tell why
                    continue
        if state.champion == self._version:
            return
        if state.champion is None:
            self._champion = None
        else:
            self._champion = Champion(self._views[state.champion], self._champion)
            self._paired = {
                pair: evidence
                for pair, evidence in self._paired.items()
                if state.champion not in pair
            }
        held = {state.champion, state.challenger, state.previous}
        spare = sorted(set(self._views) - held)
        for number in spare[: max(0, len(self._views) - _VIEWS_MAX)]:
            del self._views[number]

    def fold_predictions(self, part: PredictionPart) -> bool:
        """Fold a part; False if it was folded before.

        The watermark is the latest event time seen. Raises ValueError if a part before it is
        missing.
        """
        if not self._is_next("predictions", part.source, part.seq):
            return False
        self._rows += part.rows
        self._watermark.advance(part.event_s)
        if self._champion is not None and self._watermark.at_s is not None:
            self._champion.add_counts(part.windows, self._watermark.at_s)
        self._learn(self._join.add_predictions(part, self._delay_max_s))
        self._forget()
        return True

    def fold_labels(self, source: str, seq: int, labels: Sequence[Label]) -> bool:
        """Fold the labels of a part; False if it was folded before.

        Raises ValueError if a part before it is missing.
        """
        if not self._is_next("labels", source, seq):
            return False
        known_s = [self._known_s(label) for label in labels]
        self._learn(self._join.add_labels(labels, known_s, self._delay_max_s))
        self._forget()
        return True

    def pass_over(self, kind: str, source: str, seq: int) -> None:
        """Count a part as folded that cannot be read, now or ever."""
        self._is_next(kind, source, seq)

    def report(self) -> MonitorReport:
        """What is known now."""
        champion = self._champion
        return MonitorReport(
            model=self.model,
            watermark_s=self._watermark.at_s,
            rows=self._rows,
            labels_joined=self._joined,
            labels_pending=self._join.waiting,
            labels_unmatched=self._join.unmatched,
            labels_repeated=self._join.repeated,
            labels_late=self._join.late,
            labels_unreadable=self._unreadable,
            version=self._version,
            alarms=tuple(champion.alarms()) if champion else (),
            drift=tuple(champion.drift()) if champion else (),
            rows_late=champion.windows.rows_late if champion else 0,
            rows_foreign=champion.windows.rows_foreign if champion else 0,
            paired=tuple(
                _paired(low, high, self._paired[low, high]) for low, high in sorted(self._paired)
            ),
            labels_by_version=dict(sorted(self._labels.items())),
            loss_by_version={
                number: self._losses[number] / labels
                for number, labels in sorted(self._labels.items())
            },
            positions={kind: dict(sorted(seqs.items())) for kind, seqs in self._positions.items()},
        )

    def to_bytes(self) -> bytes:
        """The whole state: numpy's npz, without pickle, with one JSON document inside."""
        state = {
            "format": _FORMAT,
            "model": self.model,
            "positions": self._positions,
            "watermark": self._watermark.to_json(),
            "counts": [self._rows, self._joined, self._unreadable],
            "join": self._join.to_json(),
            "views": [view.to_json() for view in self._views.values()],
            "version": self._version,
            "champion": self._champion.to_json() if self._champion else None,
            "paired": [[*pair, found.to_json()] for pair, found in self._paired.items()],
            "labels": [[n, self._labels[n], self._losses[n]] for n in self._labels],
        }
        text = json.dumps(state).encode()
        arrays: dict[str, Any] = self._join.arrays()
        file = io.BytesIO()
        np.savez(file, state=np.frombuffer(text, np.uint8), **arrays)
        return file.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> "Monitor":
        """The monitor that `to_bytes` wrote. Raises CorruptBundle if the bytes are none."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                arrays = dict(archive)
            return Monitor._restored(json.loads(arrays.pop("state").tobytes()), arrays)
        except Exception as error:  # zipfile, numpy and json each fail in their own ways
            raise CorruptBundle(f"these bytes are not a monitor's state: {error}") from error

    @staticmethod
    def _restored(state: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> "Monitor":
        if state["format"] != _FORMAT:
            raise ValueError(f"format {state['format']}, expected {_FORMAT}")
        found = Monitor(state["model"])
        found._positions = {kind: dict(seqs) for kind, seqs in state["positions"].items()}
        found._watermark = Watermark.from_json(state["watermark"])
        found._rows, found._joined, found._unreadable = state["counts"]
        found._join = LabelJoin.from_json(state["join"], arrays)
        views = [View.from_json(view) for view in state["views"]]
        found._views = {view.number: view for view in views}
        if state["champion"] is not None:
            view = found._views[state["version"]]
            found._champion = Champion.from_json(view, state["champion"])
        found._paired = {
            (low, high): PairedEvidence.from_json(raw) for low, high, raw in state["paired"]
        }
        found._labels = {number: labels for number, labels, _ in state["labels"]}
        found._losses = {number: loss for number, _, loss in state["labels"]}
        return found

    @property
    def _version(self) -> int | None:
        return self._champion.view.number if self._champion else None

    @property
    def _rules(self) -> MonitoringSpec:
        return self._champion.view.rules if self._champion else MonitoringSpec()

    @property
    def _delay_max_s(self) -> float:
        return self._rules.label_delay_max_days * DAY_S

    def _know(self, number: int, bundle_of: Callable[[int], Bundle]) -> None:
        if number not in self._views:
            self._views[number] = View.of(number, bundle_of(number))

    def _is_next(self, kind: str, source: str, seq: int) -> bool:
        """Whether the part is the next one. It then counts as folded, even if folding it fails:
        a part that is folded half once does less harm than one that is folded half twice.
        """
        last = self._positions[kind].get(source, 0)
        if seq <= last:
            return False
        if seq != last + 1:
            raise ValueError(f"{kind} of {source}: part {seq} came, expected part {last + 1}")
        self._positions[kind][source] = seq
        return True

    def _known_s(self, label: Label) -> float:
        """When a label became known, on the model's clock."""
        if label.event_s is not None:
            return label.event_s
        if self._rules.clock == "wall" or self._watermark.at_s is None:
            return label.at_s
        return self._watermark.at_s

    def _forget(self) -> None:
        if self._watermark.at_s is not None:
            self._join.forget(self._watermark.at_s, self._delay_max_s)

    def _learn(self, joined: Joined) -> None:
        if not joined.values:
            return
        first = self._losses_of(joined.values, joined.versions, joined.scores)
        other = self._losses_of(joined.values, joined.other_versions, joined.other_scores)
        known = ~(np.isnan(first) & np.isnan(other))
        self._joined += int(known.sum())
        self._unreadable += int((~known).sum())
        for versions, found in ((joined.versions, first), (joined.other_versions, other)):
            for number in np.unique(versions[~np.isnan(found)]).tolist():
                held = found[(versions == number) & ~np.isnan(found)]
                self._labels[number] = self._labels.get(number, 0) + len(held)
                self._losses[number] = self._losses.get(number, 0.0) + float(held.sum())
        if self._champion is not None:
            number = self._champion.view.number
            mine = np.where(joined.versions == number, first, np.nan)
            mine = np.where(joined.other_versions == number, other, mine)
            held_rows = ~np.isnan(mine)
            self._champion.losses.add(mine[held_rows], joined.event_s[held_rows])
        self._compare(joined, first, other)

    def _compare(
        self, joined: Joined, first: NDArray[np.float64], other: NDArray[np.float64]
    ) -> None:
        low = np.minimum(joined.versions, joined.other_versions)
        high = np.maximum(joined.versions, joined.other_versions)
        both = ~np.isnan(first) & ~np.isnan(other) & (low != high)
        for pair in sorted(set(zip(low[both].tolist(), high[both].tolist(), strict=True))):
            rows = both & (low == pair[0]) & (high == pair[1])
            turned = joined.versions[rows] == pair[1]
            evidence = self._paired.setdefault(pair, PairedEvidence())
            evidence.add(
                np.where(turned, other[rows], first[rows]),
                np.where(turned, first[rows], other[rows]),
            )

    def _losses_of(
        self, values: Sequence[Any], versions: NDArray[np.int64], scores: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Losses [rows]; NaN where there is no score or the label means nothing to the version."""
        found = np.full(len(values), np.nan)
        scale = self._champion.view.reference.loss_scale if self._champion else 1.0
        for number in np.unique(versions[versions != NO_VERSION]).tolist():
            view = self._views.get(number) or (self._champion.view if self._champion else None)
            if view is None or view.schema.outputs > scores.shape[1]:
                continue
            rows = np.flatnonzero(versions == number)
            labels = np.array([_label(view.schema, values[row]) for row in rows.tolist()])
            own = scores[rows, : view.schema.outputs]
            usable = ~np.isnan(labels) & np.isfinite(own).all(1)
            if usable.any():
                found[rows[usable]] = losses(view.schema.task, labels[usable], own[usable], scale)
        return found


def _label(schema: Schema, value: Any) -> float:
    try:
        return schema.label_of(value)
    except BadRequest:
        return float("nan")


def _paired(low: int, high: int, evidence: PairedEvidence) -> Paired:
    low_loss, high_loss = evidence.mean_losses
    return Paired(
        low=low,
        high=high,
        labels=evidence.labels,
        log_better=evidence.log_better,
        log_worse=evidence.log_worse,
        low_loss=low_loss,
        high_loss=high_loss,
    )
