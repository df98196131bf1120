import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.control.hold_out import losses_by_score
from hapredict.control.learning import reference
from hapredict.monitoring.history import STRETCHES_MAX, History, Since
from hapredict.monitoring.worth import LABELS_MIN, ROWS_MIN, Band, Expected, measured
from hapredict.registry.bundle import score_bin
from hapredict.sections import DAY_S
from hapredict.training.metrics import losses
from tests.support.bundles import schema_of


def world(task, rows, seed, shift=0.0):
    """Labels and honest scores of rows; `shift` moves what the rows are like, not what is true."""
    chance = np.random.default_rng(seed)
    x = chance.normal(shift, 1, rows)
    if task == "binary":
        scores = 1 / (1 + np.exp(-2 * x))[:, None]
        return (chance.random(rows) < scores[:, 0]).astype(float), scores
    if task == "multiclass":
        logits = np.stack([x, -x, np.zeros(rows)], axis=1)
        scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        drawn = (chance.random(rows)[:, None] > scores.cumsum(1)).sum(1)
        return np.minimum(drawn, 2).astype(float), scores
    return 3 * x + chance.normal(0, 0.3 + np.abs(x)), 3 * x[:, None]


def learned(task, rows=20_000, seed=1):
    classes = {"binary": ("no", "yes"), "multiclass": ("a", "b", "c"), "regression": ()}[task]
    labels, scores = world(task, rows, seed)
    found = reference(schema_of(classes, task), np.array([1]), rows, labels, scores, None)
    means, spreads = losses_by_score(
        found, task, scores, losses(task, labels, scores, found.loss_scale)
    )
    return replace(found, score_losses=tuple(means), score_loss_spreads=tuple(spreads))


def counts_of(found, scores):
    return np.bincount(score_bin(found, scores), minlength=len(found.score_counts))


TASKS = ("binary", "multiclass", "regression")


@pytest.mark.parametrize("task", TASKS)
def test_the_estimate_of_the_hold_out_is_what_was_measured_on_it(task):
    found = learned(task)
    assert Expected(found).baseline == pytest.approx(found.loss_mean, abs=1e-3)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.5])
def test_the_band_holds_the_loss_that_labels_show_later(task, shift):
    """Rows change, what is true of them does not: nothing but the scores is needed."""
    found = learned(task)
    expected, held = Expected(found), 0
    for seed in range(40):
        labels, scores = world(task, 1500, 100 + seed, shift)
        band = expected.band(counts_of(found, scores))
        true = losses(task, labels, scores, found.loss_scale).mean()
        held += band.low <= true <= band.high
        assert band.high - band.low < 0.08
    # bins are coarse: within one, shifted rows are not quite those of the hold-out
    assert held >= 34


@pytest.mark.parametrize("task", TASKS)
def test_an_estimate_follows_a_shift_without_a_single_label(task):
    found = learned(task)
    expected = Expected(found)
    shift = {"binary": -1.0, "multiclass": 2.0, "regression": 1.0}[task]
    labels, scores = world(task, 20_000, 7, shift)
    true = losses(task, labels, scores, found.loss_scale).mean() - found.loss_mean
    told = expected.band(counts_of(found, scores)).loss - expected.baseline
    assert abs(true) > 0.02
    assert told == pytest.approx(true, abs=0.35 * abs(true))


def test_concept_drift_is_what_an_estimate_cannot_see():
    found = learned("binary")
    labels, scores = world("binary", 5000, 3)
    band = Expected(found).band(counts_of(found, scores))
    turned = losses("binary", 1 - labels, scores).mean()
    assert turned > band.high + 0.1


@given(st.integers(ROWS_MIN, 500), st.integers(2, 100))
def test_more_rows_never_widen_the_band(rows, times):
    expected = Expected(learned_once())
    few = np.bincount(np.arange(rows) % 20, minlength=20)
    narrow, wide = expected.band(few * times), expected.band(few)
    assert narrow.high - narrow.low <= wide.high - wide.low


_ONCE = []


def learned_once():
    if not _ONCE:
        _ONCE.append(learned("binary"))
    return _ONCE[0]


def test_nothing_is_estimated_from_few_rows_or_without_a_hold_out_that_tells():
    found = learned_once()
    assert Expected(found).band(np.zeros(20)) is None
    assert Expected(found).band(np.eye(20)[0] * (ROWS_MIN - 1)) is None
    assert Expected.of(replace(found, score_losses=(), score_loss_spreads=())) is None


def since_of(values):
    return Since(np.zeros(1, np.int64), len(values), sum(values), sum(v * v for v in values), 0.0)


def test_a_few_labels_say_nothing():
    assert measured(since_of([0.5] * (LABELS_MIN - 1))) is None
    assert measured(since_of([0.5] * LABELS_MIN)) is not None


@given(st.floats(0, 1), st.integers(LABELS_MIN, 10_000))
def test_labels_that_all_agree_are_still_only_so_many(value, labels):
    band = measured(Since(np.zeros(1, np.int64), labels, labels * value, labels * value**2, 0.0))
    assert band.loss == pytest.approx(value)
    assert band.low < value or value < 1e-3
    assert band.high > value or value > 1 - 1e-3


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_harm_is_told_only_where_the_whole_band_agrees(one, other, bound):
    band = Band((one + other) / 2, min(one, other), max(one, other), 100)
    harm = band.harm(bound)
    assert (harm == "worse") == (band.low > bound)
    assert (harm == "none") == (band.high <= bound)


class TestHistory:
    @given(
        st.lists(
            st.tuples(st.floats(0, 30 * DAY_S), st.integers(0, 5), st.floats(0, 1)), max_size=30
        ),
        st.floats(0, 30 * DAY_S),
    )
    def test_all_from_a_moment_on_is_added_up(self, events, start_s):
        history = History(2, DAY_S)
        for at_s, rows, loss in events:
            history.add_scores([rows, 1], at_s)
            history.add_losses([loss], [at_s])
        kept = [event for event in events if event[0] // DAY_S >= start_s // DAY_S]
        found = history.since(start_s)
        assert found.scores.tolist() == [sum(rows for _, rows, _ in kept), len(kept)]
        assert found.labels == len(kept)
        assert found.loss == pytest.approx(sum(loss for _, _, loss in kept))
        again = History(2, DAY_S)
        again.restore(json.loads(json.dumps(history.to_json())))
        assert again.to_json() == history.to_json()

    def test_memory_does_not_grow_with_time(self):
        history = History(1, DAY_S)
        for day in range(3 * STRETCHES_MAX):
            history.add_scores([1], day * DAY_S)
            history.add_losses([0.5], [day * DAY_S])
        raw = history.to_json()
        assert len(raw["scores"]) == len(raw["losses"]) == STRETCHES_MAX
        assert history.newest(7).scores.tolist() == [7]
