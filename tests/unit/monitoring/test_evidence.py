import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.monitoring import evidence
from hapredict.monitoring.evidence import DriftDetector, sampling_error, total_variation

ROWS = 500


def reference(features=8, bins=10, rows=50_000, seed=0):
    chance = np.random.default_rng(seed)
    shares = chance.dirichlet(np.full(bins, 5.0), features)
    shares[0] = [0.4, *chance.dirichlet(np.full(bins - 1, 5.0)) * 0.6]
    return shares, [chance.multinomial(rows, row) for row in shares]


def moved(shares, by, feature=0):
    """`by` of one feature's rows go from its fullest bin to its second bin."""
    changed = shares.copy()
    fullest = changed[feature].argmax()
    changed[feature, fullest] -= by
    changed[feature, fullest - 1] += by
    return changed


def fold(detector, shares, windows, chance, start=0, weight=0.05):
    """Windows until the first alarm, or None."""
    for window in range(start, start + windows):
        counts = [chance.multinomial(ROWS, row) for row in shares]
        detector.update(np.concatenate(counts), start_s=window, end_s=window + 1, weight=weight)
        if detector.changes:
            return window - start + 1
    return None


@pytest.mark.parametrize("seed", range(3))
def test_many_windows_without_a_change_raise_no_alarm(seed):
    shares, counts = reference(seed=seed)
    detector = DriftDetector(counts, tolerance=0.02, level=90)
    assert fold(detector, shares, 250, np.random.default_rng(seed)) is None
    assert detector.windows == 250


def test_a_small_reference_widens_the_tolerance_so_that_its_own_error_is_no_drift():
    shares, counts = reference(rows=2000, seed=5)
    detector = DriftDetector(counts, tolerance=0.0, level=90)
    assert (detector.tolerance >= total_variation(detector.shares, shares)).all()
    assert fold(detector, shares, 250, np.random.default_rng(1)) is None


def test_a_reference_that_was_unlucky_in_a_few_of_many_binary_features_raises_no_alarm():
    chance = np.random.default_rng(9)
    shares = np.full((60, 2), 0.5)
    detector = DriftDetector([chance.multinomial(1600, row) for row in shares], 0.0, 90)
    assert fold(detector, shares, 200, chance, weight=0.2) is None


@pytest.mark.parametrize(("by", "windows_max"), [(0.3, 3), (0.15, 5), (0.08, 12)])
def test_a_shift_is_found_within_few_windows(by, windows_max):
    shares, counts = reference()
    detector = DriftDetector(counts, tolerance=0.02, level=90)
    chance = np.random.default_rng(2)
    fold(detector, shares, 60, chance)
    assert fold(detector, moved(shares, by), windows_max, chance, start=60) is not None
    (change,) = detector.changes.values()
    assert set(detector.changes) == {0}
    assert 58 <= change.since_s < change.at_s
    assert total_variation(change.live, detector.shares[0]) == pytest.approx(by, abs=0.05)
    assert np.argmin(change.live - detector.shares[0]) == 0  # the bin that lost rows


def test_a_shift_inside_the_tolerance_stays_silent():
    shares, counts = reference()
    detector = DriftDetector(counts, tolerance=0.1, level=90)
    assert fold(detector, moved(shares, 0.08), 250, np.random.default_rng(3)) is None
    assert detector.effects[0] > 0.05


def test_an_alarm_ends_when_the_shares_return():
    shares, counts = reference()
    detector = DriftDetector(counts, tolerance=0.02, level=90)
    chance = np.random.default_rng(4)
    assert fold(detector, moved(shares, 0.3), 20, chance) is not None
    for window in range(60):
        live = np.concatenate([chance.multinomial(ROWS, row) for row in shares])
        detector.update(live, start_s=window, end_s=window, weight=0.05)
    assert not detector.changes
    assert fold(detector, moved(shares, 0.3), 20, chance) is not None


def test_features_may_have_different_numbers_of_bins():
    detector = DriftDetector([[500, 500], [100, 200, 300, 400], [1000]], 0.02, 90)
    for window in range(20):
        live = [250, 250, 200, 200, 50, 50, 500]
        detector.update(live, start_s=window, end_s=window, weight=1.0)
    assert set(detector.changes) == {1}
    assert detector.changes[1].live.tolist() == [0.4, 0.4, 0.1, 0.1]
    assert detector.effects[0] == pytest.approx(0, abs=1e-3)


def test_one_row_in_a_bin_that_the_reference_never_saw_is_no_alarm():
    detector = DriftDetector([[5000, 5000, 0]], 0.02, 90)
    for window in range(10):
        detector.update([250, 249, 1], start_s=window, end_s=window, weight=1.0)
    assert not detector.changes


LEVEL, WEIGHT = 2.0, 0.05
"""In days: one alarm in 2 is promised at most, and a window stands for a 20th of one."""


def alarms_in(detector, shares, windows, chance, weight=WEIGHT):
    """Alarms raised in so many windows of 500 rows; each is forgotten at once."""
    raised = 0
    for _ in range(windows):
        counts = [chance.multinomial(ROWS, row) for row in shares]
        detector.update(np.concatenate(counts), start_s=0, end_s=0, weight=weight)
        raised += len(detector.changes)
        if detector.changes:
            detector.restore(DriftDetector(detector.counts, 0.0, detector.level).to_json())
    return raised


class _Watched(DriftDetector):
    """Keeps what it was made from."""

    def __init__(self, counts, tolerance, level):
        super().__init__(counts, tolerance, level)
        self.counts, self.level = counts, level


def test_false_alarms_over_all_features_and_windows_are_as_rare_as_promised():
    # a reference so large that its own error is nothing, and no tolerance: chance alone
    shares = [np.array([0.5, 0.5]), np.array([0.2, 0.3, 0.5]), np.array([0.1, 0.9])]
    counts = [row * 1e12 for row in shares]
    windows = 1200

    def found(level, weight):
        watched = _Watched(counts, 0.0, level)
        return alarms_in(watched, shares, windows, np.random.default_rng(10), weight)

    promised = windows * WEIGHT / LEVEL
    assert found(LEVEL, WEIGHT) <= promised
    # nor is that because nothing alarms: more are raised if features are forgotten, or time
    assert found(LEVEL / 3, WEIGHT) > promised
    assert found(LEVEL, 1.0) > 3 * promised


def test_an_alarm_among_more_features_needs_more_evidence():
    _, counts = reference(features=20)
    one, many = DriftDetector(counts[:1], 0.02, 90), DriftDetector(counts, 0.02, 90)
    assert many.threshold == pytest.approx(one.threshold + np.log(20))


def test_a_detector_goes_on_from_its_json_as_if_it_had_never_stopped():
    shares, counts = reference(features=3)
    one, other = (DriftDetector(counts, 0.02, 90) for _ in range(2))
    fold(one, moved(shares, 0.1), 7, np.random.default_rng(6))
    other.restore(json.loads(json.dumps(one.to_json(), allow_nan=False)))
    for detector in (one, other):
        fold(detector, shares, 9, np.random.default_rng(7), start=7)
    assert one.to_json() == other.to_json()


SHARES = st.lists(st.floats(0.01, 1), min_size=2, max_size=6).map(lambda x: np.array(x) / sum(x))


@given(data=st.data(), reference=SHARES, tolerance=st.floats(0, 0.3))
@settings(max_examples=60)
def test_a_row_wins_nothing_on_average_while_shares_stay_within_the_tolerance(
    data, reference, tolerance
):
    same = st.lists(st.floats(0.01, 1), min_size=len(reference), max_size=len(reference))
    expected = np.array(data.draw(same))
    score = np.exp(
        evidence._log_scores(
            reference[None], (expected / expected.sum())[None], np.array([tolerance])
        )
    )[0]
    # the worst shares within the tolerance take from the bins with the lowest scores
    worst, left = reference.copy(), tolerance
    for place in np.argsort(score):
        taken = min(left, worst[place])
        worst[place] -= taken
        left -= taken
    worst[score.argmax()] += tolerance - left
    assert total_variation(worst, reference) <= tolerance + 1e-12
    assert (worst * score).sum() <= 1 + 1e-9


@given(data=st.data(), reference=SHARES, tolerance=st.floats(0, 0.3))
@settings(max_examples=40)
def test_no_other_clip_between_two_ratios_grows_faster(data, reference, tolerance):
    same = st.lists(st.floats(0.01, 1), min_size=len(reference), max_size=len(reference))
    expected = np.array(data.draw(same))
    expected /= expected.sum()
    ratio = expected / reference
    growths = []
    for low in ratio:
        for high in ratio[ratio >= low]:
            clipped = np.clip(ratio, low, high)
            mean = (reference * clipped).sum() + tolerance * (high - low)
            growths.append((expected * np.log(clipped / mean)).sum())
    score = evidence._log_scores(reference[None], expected[None], np.array([tolerance]))
    assert (expected * score[0]).sum() >= max(growths) - 1e-9
    # nor is there a bet where the belief is within the tolerance
    if total_variation(expected, reference) < tolerance:
        assert score[0] == pytest.approx(0, abs=1e-12)


def test_the_expected_distance_of_a_sample_is_what_sampling_error_says():
    shares, _ = reference(features=1, bins=12)
    chance = np.random.default_rng(8)
    live = chance.multinomial(400, shares[0], size=400) / 400
    measured = total_variation(live, shares[0]).mean()
    assert sampling_error(shares, np.array([400.0]))[0] == pytest.approx(measured, rel=0.05)


def test_idle_time_and_windows_of_no_duration_have_bounded_weights():
    assert evidence.time_weight(10 * 86_400, 86_400) == 1
    assert 0 < evidence.time_weight(0, 86_400) < 1e-3
    assert evidence.time_weight(21_600, 86_400) == 0.25
