"""Scores of predictions, and verdicts on them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.training.metrics import (
    auc,
    calibration_error,
    constant_scores,
    evaluate,
    loss_scale,
    losses,
    no_harm,
    quantile_metrics,
    sanity,
)

CHANCE = np.random.default_rng(7)

judged = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 6).map(lambda step: step / 6)),
    min_size=2,
    max_size=60,
).filter(lambda rows: 0 < sum(label for label, _ in rows) < len(rows))


def column(values):
    return np.asarray(values, dtype=np.float64).reshape(-1, 1)


def coin(rows, chance, seed=0):
    return (np.random.default_rng(seed).random(rows) < chance).astype(np.float64)


@given(judged)
def test_auc_is_the_share_of_pairs_in_the_right_order_with_ties_half(rows):
    positives = [score for label, score in rows if label]
    negatives = [score for label, score in rows if not label]
    pairs = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
    labels, scores = zip(*rows, strict=True)
    assert auc(np.array(labels), np.array(scores)) == pytest.approx(
        sum(pairs) / len(pairs), abs=1e-15
    )


@given(judged)
def test_auc_of_reversed_scores_is_its_complement(rows):
    labels, scores = (np.array(part, dtype=float) for part in zip(*rows, strict=True))
    assert auc(labels, scores) + auc(labels, -scores) == pytest.approx(1)


@given(judged)
def test_auc_depends_on_the_order_of_scores_only(rows):
    labels, scores = (np.array(part, dtype=float) for part in zip(*rows, strict=True))
    assert auc(labels, scores) == auc(labels, np.exp(3 * scores) - 5)


@given(judged)
def test_binary_metrics_lie_in_their_ranges(rows):
    labels, scores = (np.array(part, dtype=float) for part in zip(*rows, strict=True))
    found = evaluate("binary", labels, column(scores))
    bounded = {"auc", "brier", "accuracy", "base_rate", "calibration_error"}
    assert set(found) == {*bounded, "logloss"}
    assert all(0 <= found[name] <= 1 for name in bounded)
    assert found["logloss"] >= 0
    assert found["brier"] == pytest.approx(losses("binary", labels, column(scores)).mean())


def test_metrics_that_one_class_leaves_undefined_are_absent():
    assert "auc" not in evaluate("binary", np.ones(5), column([0.5] * 5))
    assert "r2" not in evaluate("regression", np.ones(5), column([1.0] * 5))


def test_a_certain_and_wrong_score_costs_much_but_not_without_end():
    found = evaluate("binary", np.array([1.0, 0.0]), column([0.0, 1.0]))
    assert np.isfinite(found["logloss"])
    assert found["logloss"] > 20


@given(st.integers(2, 6), st.integers(1, 40), st.integers(0, 99))
def test_multiclass_losses_are_bounded_and_average_to_the_brier_score(classes, rows, seed):
    chance = np.random.default_rng(seed)
    scores = chance.dirichlet(np.full(classes, 0.3), rows)
    labels = chance.integers(0, classes, rows)
    found = losses("multiclass", labels, scores)
    assert found.shape == (rows,)
    assert found.min() >= 0
    assert found.max() <= 1
    assert evaluate("multiclass", labels, scores)["brier"] == pytest.approx(found.mean())


def test_two_classes_give_the_same_losses_as_one_binary_score():
    labels, score = coin(50, 0.4), CHANCE.random(50)
    as_classes = np.stack([1 - score, score], axis=1)
    assert losses("multiclass", labels, as_classes) == pytest.approx(
        losses("binary", labels, column(score))
    )


def test_honest_scores_have_no_calibration_error_but_chance():
    score = CHANCE.random(20_000)
    honest = CHANCE.random(20_000) < score
    assert calibration_error(honest, column(score)) < 0.02
    assert calibration_error(honest, column(score**3)) > 0.2
    classes = np.stack([1 - score, score], axis=1)
    assert calibration_error(honest, classes) < 0.02
    assert calibration_error(honest, classes[:, ::-1]) > 0.3


@given(judged, st.randoms(use_true_random=False))
def test_the_calibration_error_does_not_depend_on_the_order_of_rows(rows, chance):
    mixed = list(rows)
    chance.shuffle(mixed)
    found = [
        calibration_error(np.array(labels), column(scores))
        for labels, scores in (zip(*part, strict=True) for part in (rows, mixed))
    ]
    assert found[0] == pytest.approx(found[1])
    assert 0 <= found[0] <= 1


def test_one_score_for_all_is_as_wrong_as_it_is_on_average():
    labels = coin(1000, 0.3)
    error = calibration_error(labels, column(np.full(1000, 0.5)))
    assert error == pytest.approx(abs(labels.mean() - 0.5))


@given(st.integers(0, 99), st.floats(-2, 2))
def test_the_pinball_loss_is_lowest_at_the_true_quantiles(seed, off):
    labels = np.random.default_rng(seed).normal(size=2000)
    true = {q: np.full(2000, np.quantile(labels, q)) for q in (0.1, 0.5, 0.9)}
    moved = {q: values + off for q, values in true.items()}
    assert (
        quantile_metrics(labels, true)["pinball"]
        <= quantile_metrics(labels, moved)["pinball"] + 1e-9
    )


def test_coverage_is_the_share_within_the_outermost_quantiles():
    labels = np.arange(100.0)
    quantiles = {0.5: np.full(100, 50.0), 0.1: np.full(100, 10.0), 0.9: np.full(100, 90.0)}
    found = evaluate("regression", labels, column(quantiles[0.5]), quantiles)
    assert (found["coverage"], found["coverage_wanted"]) == (0.81, pytest.approx(0.8))
    assert found["mae"] == 25
    assert "coverage" not in evaluate("regression", labels, column(quantiles[0.5]))


def test_regression_metrics_are_in_the_units_of_the_target():
    found = evaluate("regression", np.array([0.0, 10.0]), column([3.0, 6.0]))
    assert found == pytest.approx({"mae": 3.5, "rmse": np.sqrt(12.5), "r2": 0.5})


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_a_loss_scale_is_above_zero_and_bounds_ordinary_errors(labels):
    scale = loss_scale("regression", np.array(labels))
    assert scale > 0
    found = losses("regression", np.array(labels), column(np.zeros(len(labels))), scale)
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize(
    ("labels", "scores"),
    [
        ([], np.zeros((0, 1))),
        ([0.0, 1.0], np.zeros((3, 1))),
        ([0.0, 1.0], np.zeros(2)),
        ([0.0, 1.0], np.zeros((2, 2))),
        ([0.0, 2.0], np.zeros((2, 1))),
        ([0.0, np.nan], np.zeros((2, 1))),
        ([0.0, 1.0], np.full((2, 1), np.inf)),
    ],
)
def test_what_cannot_be_scored_is_refused(labels, scores):
    with pytest.raises(ValueError):
        evaluate("binary", np.array(labels), scores)


def test_constant_scores_know_the_training_labels_and_nothing_else():
    assert constant_scores("binary", np.array([0, 0, 1, 1, 1]), 2, 1).tolist() == [[0.6], [0.6]]
    assert constant_scores("regression", np.array([1.0, 2, 9]), 1, 1).tolist() == [[2.0]]
    shares = constant_scores("multiclass", np.array([0, 2, 2, 2]), 1, 4)
    assert shares.tolist() == [[0.25, 0, 0.75, 0]]


def test_an_equal_challenger_does_no_harm():
    labels, score = coin(1000, 0.3), column(CHANCE.random(1000))
    assert no_harm("binary", labels, score, score).passed


def test_a_clearly_worse_challenger_fails_and_a_better_one_passes():
    labels = coin(1000, 0.3)
    good = column(np.where(labels == 1, 0.6, 0.2))
    bad = column(np.where(labels == 1, 0.4, 0.3))
    verdict = no_harm("binary", labels, good, bad)
    assert verdict.failed
    assert "significantly worse" in verdict.reason
    assert no_harm("binary", labels, bad, good).passed


def test_a_challenger_that_is_worse_by_a_constant_fails():
    labels = np.zeros(300)
    worse = no_harm("regression", labels, column(labels), column(labels + 0.25), 1.0)
    assert worse.failed


@given(st.integers(1, 199))
def test_few_rows_give_no_verdict_and_say_how_many_are_needed(rows):
    labels = coin(rows, 0.5)
    verdict = no_harm("binary", labels, column(labels), column(1 - labels))
    assert verdict.outcome == "not enough data"
    assert verdict.need == 200
    assert sanity("binary", labels, column(1 - labels)).need == 200


def test_an_equally_good_challenger_is_refused_at_most_about_one_time_in_twenty():
    refused = 0
    for seed in range(400):
        chance = np.random.default_rng(seed)
        truth = chance.random(300)
        labels = (chance.random(300) < truth).astype(float)
        one, other = (np.clip(truth + chance.normal(0, 0.2, 300), 0, 1) for _ in range(2))
        refused += no_harm("binary", labels, column(one), column(other)).failed
    assert refused <= 0.09 * 400


def test_sanity_passes_what_beats_the_constant_and_fails_what_is_worse_than_no_model():
    labels = coin(1000, 0.3)
    assert sanity("binary", labels, column(np.where(labels == 1, 0.5, 0.2))).passed
    assert sanity("binary", labels, column(1 - labels)).failed


def test_sanity_asks_for_more_rows_where_the_constant_is_ahead_by_chance():
    labels = coin(400, 0.3)
    scores = column(labels.mean() + np.random.default_rng(1).normal(0, 0.001, 400))
    verdict = sanity("binary", labels, scores)
    if verdict.outcome != "pass":
        assert verdict.outcome == "not enough data"
        assert verdict.need >= 400
    the_constant_itself = sanity("binary", labels, column(np.full(400, labels.mean())))
    assert the_constant_itself.outcome == "not enough data"


def test_sanity_with_a_drifted_base_rate_compares_with_what_was_known_in_training():
    labels = coin(2000, 0.4)
    trained_on = coin(2000, 0.1)
    model = column(np.full(2000, 0.2))
    base = constant_scores("binary", trained_on, 2000, 1)
    assert sanity("binary", labels, model).failed
    assert sanity("binary", labels, model, base).passed
