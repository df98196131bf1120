"""A classifier becomes more honest where its rows can prove it, and is left alone elsewhere."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.sections import TrainingSpec
from hapredict.training.calibration import (
    ISOTONIC_ROWS_MIN,
    KNOTS_MAX,
    ROWS_MIN,
    fit_finish,
    isotonic_knots,
    set_aside,
)
from hapredict.training.finish import Finish
from hapredict.training.metrics import auc
from tests.support.learnable import learnable

BINARY = learnable("binary", 10)[0]
SEVERAL = learnable("multiclass", 10)[0]
SPEC = TrainingSpec()
ISOTONIC = TrainingSpec(calibration="isotonic")


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def binary(rows, seed=0, *, slope=1.0, offset=0.0):
    """Logits [rows, 1] of a model whose honest logits are slope times them plus offset."""
    chance = np.random.default_rng(seed)
    values = chance.normal(size=(rows, 1)) * 2
    labels = (chance.random(rows) < sigmoid(slope * values[:, 0] + offset)).astype(float)
    return values, labels


def several(rows, seed=0, slope=1.0):
    chance = np.random.default_rng(seed)
    values = chance.normal(size=(rows, 3)) * 2
    noise = chance.gumbel(size=(rows, 3))
    return values, (slope * values + noise).argmax(axis=1).astype(float)


@settings(max_examples=20)
@given(st.floats(0.25, 4), st.floats(-2, 2), st.integers(0, 99))
def test_the_line_that_made_the_labels_is_found(slope, offset, seed):
    finish, report = fit_finish(BINARY, SPEC, *binary(5000, seed, slope=slope, offset=offset))
    if report["kind"] == "none":  # too close to the identity to be told from it
        assert abs(slope - 1) < 0.2
        assert abs(offset) < 0.2
        return
    assert finish.slope == pytest.approx(slope, rel=0.25)
    assert finish.offset == pytest.approx(offset, abs=0.3)
    assert report["logloss_after"] < report["logloss_before"]


@settings(max_examples=10)
@given(st.sampled_from([0.3, 0.5, 2, 3]), st.integers(0, 99))
def test_the_temperature_of_several_classes_is_found(slope, seed):
    finish, report = fit_finish(SEVERAL, SPEC, *several(4000, seed, slope))
    assert finish.slope == pytest.approx(slope, rel=0.15)
    assert finish.offset == 0
    assert report["calibration_error_after"] < report["calibration_error_before"] / 2


def test_honest_scores_are_left_alone_nineteen_times_of_twenty():
    kinds = [fit_finish(BINARY, SPEC, *binary(1000, seed))[1]["kind"] for seed in range(60)]
    # at a level of 5 percent for a slope, and again for an offset
    assert kinds.count("temperature") <= 12
    assert all(
        fit_finish(BINARY, ISOTONIC, *binary(3000, seed))[1]["kind"] != "isotonic"
        for seed in range(8)
    )


def test_what_is_chosen_helps_rows_that_it_has_not_seen():
    gains = []
    for seed in range(20):
        finish, _ = fit_finish(BINARY, SPEC, *binary(3000, seed, slope=0.5, offset=0.4))
        values, labels = binary(5000, seed + 1000, slope=0.5, offset=0.4)
        before, after = (f.scores(BINARY, values)[:, 0] for f in (Finish(), finish))
        gains.append(np.mean((before - labels) ** 2) - np.mean((after - labels) ** 2))
        assert auc(labels, before) == pytest.approx(auc(labels, after), abs=1e-12)
    assert min(gains) > 0


def test_few_rows_a_regression_and_a_spec_that_wants_none_are_left_alone_and_say_so():
    shape = learnable("regression", 10)[0]
    few = binary(ROWS_MIN - 1, slope=0.3)
    for shape_given, spec, rows, why in (
        (BINARY, SPEC, few, f"{ROWS_MIN - 1} rows are too few"),
        (BINARY, SPEC, (np.zeros((0, 1)), np.zeros(0)), "0 rows are too few"),
        (shape, SPEC, binary(500, slope=0.3), "regression"),
        (BINARY, TrainingSpec(calibration="none"), binary(500, slope=0.3), "is none"),
    ):
        finish, report = fit_finish(shape_given, spec, *rows)
        assert finish == Finish()
        assert why in report["reason"]
        assert report["rows"] == len(rows[1])
    assert fit_finish(BINARY, SPEC, *binary(ROWS_MIN, slope=0.3))[1]["kind"] == "temperature"


@pytest.mark.parametrize(
    "labels",
    [
        np.zeros(500),
        np.ones(500),
        (np.linspace(-1, 1, 500) > 0) * 1.0,
        (np.linspace(1, -1, 500) > 0),
    ],
    ids=["one class", "the other", "perfect", "the wrong way round"],
)
@pytest.mark.parametrize("spec", [SPEC, ISOTONIC])
def test_labels_that_no_line_fits_leave_the_scores_alone(labels, spec):
    finish, report = fit_finish(BINARY, spec, np.linspace(-1, 1, 500)[:, None], labels)
    assert np.isfinite([report[f"logloss_{when}"] for when in ("before", "after")]).all()
    assert report["logloss_after"] <= report["logloss_before"]
    assert finish.slope > 0


def test_what_no_line_can_mend_isotonic_does():
    chance = np.random.default_rng(3)
    values = chance.normal(size=(20_000, 1)) * 2
    honest = np.where(values > 0, 0.2 * values, 3 * values)[:, 0]
    labels = (chance.random(20_000) < sigmoid(honest)).astype(float)
    finish, report = fit_finish(BINARY, ISOTONIC, values, labels)
    assert report["kind"] == "isotonic"
    assert 2 <= len(finish.knots) <= KNOTS_MAX
    line, _ = fit_finish(BINARY, SPEC, values, labels)
    apart = [
        np.abs(f.scores(BINARY, values)[:, 0] - sigmoid(honest)).mean() for f in (finish, line)
    ]
    assert apart[0] < apart[1] / 2


def test_isotonic_needs_two_classes_and_many_rows():
    _, report = fit_finish(SEVERAL, ISOTONIC, *several(3000, slope=0.3))
    assert report["kind"] == "temperature"
    assert "isotonic is for binary models" in report["reason"]
    _, report = fit_finish(BINARY, ISOTONIC, *binary(ISOTONIC_ROWS_MIN - 1, slope=0.3))
    assert report["kind"] == "temperature"
    assert f"fewer than isotonic's {ISOTONIC_ROWS_MIN}" in report["reason"]


@given(
    st.lists(
        st.tuples(st.integers(-40, 40).map(lambda step: step / 4), st.integers(0, 1)),
        min_size=2,
        max_size=200,
    )
)
def test_knots_rise_whatever_the_rows(rows):
    values, labels = (np.array(part, dtype=float) for part in zip(*rows, strict=True))
    knots = isotonic_knots(values, labels.astype(int))
    assert len(knots) <= KNOTS_MAX
    if knots:
        assert len(knots) >= 2
        Finish(knots=knots)  # refuses what does not rise


def test_class_weights_are_not_taken_for_a_lack_of_honesty():
    values, labels = binary(20_000, slope=1.0)
    weighted = replace(BINARY, class_weights=(1.0, 8.0))
    finish, _ = fit_finish(weighted, SPEC, values + np.log(8), labels)
    assert finish == fit_finish(BINARY, SPEC, values, labels)[0]


class TestSetAside:
    VALIDATION = learnable("binary", 1000)[1]

    def test_the_newest_rows_calibrate_and_the_others_choose(self):
        spec = TrainingSpec(calibration_share=0.3)
        choose, calibrate = set_aside(BINARY, spec, self.VALIDATION)
        assert (choose.rows, calibrate.rows) == (700, 300)
        labels = np.concatenate([choose.labels, calibrate.labels])
        np.testing.assert_array_equal(labels, self.VALIDATION.labels)

    @pytest.mark.parametrize(
        ("shape", "spec"),
        [
            (learnable("regression", 10)[0], TrainingSpec()),
            (BINARY, TrainingSpec(calibration="none")),
            (BINARY, TrainingSpec(calibration_share=(ROWS_MIN - 1) / 1000)),
        ],
    )
    def test_no_row_is_lost_where_none_can_calibrate(self, shape, spec):
        choose, calibrate = set_aside(shape, spec, self.VALIDATION)
        assert choose.rows == 1000
        assert calibrate is None
