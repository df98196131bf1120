import json

import numpy as np
import pytest

from hapredict.monitoring.betting import LossDetector, PairedEvidence, loss_bound

DAY_S = 86_400.0
A_DAY = 500
"""Labels a day in these tests."""


def detector(baseline=0.1, rows=20_000, tolerance=0.01):
    return LossDetector(loss_bound(baseline, rows, tolerance), 90, 50, DAY_S)


def labels_until_alarm(watched, rate, labels, seed, start=0):
    chance = np.random.default_rng(seed)
    for first in range(start, start + labels, 50):
        times = (first + np.arange(50)) * DAY_S / A_DAY
        watched.add(chance.random(50) < rate, times)
        if watched.change:
            return first + 50 - start
    return None


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_at_its_baseline_raises_no_alarm(seed):
    assert labels_until_alarm(detector(), 0.1, 50_000, seed) is None


def test_a_loss_at_the_edge_of_the_tolerance_raises_alarms_as_rarely_as_promised():
    labels, seeds = 20_000, 10
    found = [labels_until_alarm(detector(), 0.11, labels, seed) for seed in range(seeds)]
    assert seeds - found.count(None) <= seeds * labels / A_DAY / 90


def test_a_loss_a_little_beyond_the_tolerance_is_found_in_the_end():
    assert labels_until_alarm(detector(), 0.125, 30_000, 11) is not None


def test_errors_that_double_are_found_within_about_600_labels():
    delays = []
    for seed in range(9):
        watched = detector()
        assert labels_until_alarm(watched, 0.1, 3000, seed) is None
        delays.append(labels_until_alarm(watched, 0.2, 2000, seed + 100, start=3000))
        change = watched.change
        assert 3000 / A_DAY - 1 <= change.since_s / DAY_S <= change.at_s / DAY_S
        assert watched.bound < change.live[0] < 0.5
    assert np.median(delays) <= 600
    assert max(delays) <= 1000


def test_a_loss_that_falls_is_no_alarm():
    assert labels_until_alarm(detector(0.3), 0.1, 10_000, 0) is None


def test_an_alarm_ends_when_the_loss_returns():
    watched = detector()
    assert labels_until_alarm(watched, 0.4, 1000, 1) is not None
    chance = np.random.default_rng(2)
    for day in range(10, 40):
        watched.add(chance.random(A_DAY) < 0.1, day * DAY_S + np.arange(A_DAY))
    assert watched.change is None


def test_how_losses_are_cut_into_parts_does_not_matter():
    chance = np.random.default_rng(3)
    losses, times = chance.random(1000), np.arange(1000) * 100.0
    whole, pieces = detector(), detector()
    whole.add(losses, times)
    for first, last in zip([0, 7, 300, 301, 960], [7, 300, 301, 960, 1000], strict=True):
        pieces.add(losses[first:last], times[first:last])
    assert pieces.log_evidence == pytest.approx(whole.log_evidence)


def test_labels_in_bulk_are_worth_the_time_that_they_are_about():
    chance = np.random.default_rng(4)
    losses = chance.random(2000) < 0.2
    spread, burst = detector(), detector()
    spread.add(losses, np.arange(2000) * DAY_S / A_DAY)
    burst.add(losses, np.zeros(2000))
    assert burst.log_evidence < spread.log_evidence


def test_a_detector_goes_on_from_its_json_as_if_it_had_never_stopped():
    chance = np.random.default_rng(5)
    losses, times = chance.random(777), np.sort(chance.random(777)) * DAY_S
    one, other = detector(), detector()
    one.add(losses[:333], times[:333])
    other.restore(json.loads(json.dumps(one.to_json(), allow_nan=False)))
    for watched in (one, other):
        watched.add(losses[333:], times[333:])
    assert one.to_json() == other.to_json()


def test_the_tolerance_is_the_greatest_of_the_three_concerns():
    assert loss_bound(0.1, 10**9, 0.03) == pytest.approx(0.13)
    assert loss_bound(0.4, 10**9, 0.01) == pytest.approx(0.42)
    assert loss_bound(0.1, 100, 0.01) == pytest.approx(0.16)


def paired_losses(chance, labels, better=0.0, disagree=0.1):
    """0/1 losses of two models that disagree on some rows; the second wins `better` more often."""
    wins = (disagree + better) / 2
    side = chance.random(labels)
    low = (side < wins).astype(float)
    high = ((side >= wins) & (side < disagree)).astype(float)
    return low, high


def test_looking_all_the_time_at_two_equal_models_settles_nothing_in_95_percent_of_runs():
    chance = np.random.default_rng(6)
    settled = 0
    for _ in range(200):
        evidence = PairedEvidence()
        highest = 0.0
        for _ in range(40):
            evidence.add(*paired_losses(chance, 250))
            highest = max(highest, evidence.log_better)
        settled += highest > np.log(20)
    assert settled <= 10


@pytest.mark.parametrize("seed", range(3))
def test_a_model_that_is_better_by_3_points_is_found_within_2000_labels(seed):
    evidence = PairedEvidence()
    evidence.add(*paired_losses(np.random.default_rng(seed), 2000, better=0.03))
    assert evidence.log_better > np.log(20)
    assert evidence.log_worse < 0


def test_exchanging_the_models_exchanges_the_evidence():
    low, high = paired_losses(np.random.default_rng(7), 500, better=0.02)
    one, other = PairedEvidence(), PairedEvidence()
    one.add(low, high)
    other.add(high, low)
    assert (one.log_better, one.log_worse) == (other.log_worse, other.log_better)
    assert one.mean_losses == other.mean_losses[::-1]


def test_paired_evidence_goes_on_from_its_json():
    one = PairedEvidence()
    one.add([0.1, 0.5], [0.2, 0.25])
    other = PairedEvidence.from_json(json.loads(json.dumps(one.to_json())))
    for evidence in (one, other):
        evidence.add([0.3], [0.9])
    assert one.to_json() == other.to_json()
    assert other.labels == 3
