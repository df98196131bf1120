"""What a fitted model must pass before live traffic sees it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.control.gates import (
    ROWS_MIN,
    SLICE_ROWS_MIN,
    Beside,
    Judged,
    judge,
    label_metrics,
    last_values,
)
from hapredict.sections import DAY_S
from hapredict.sections_live import ControlSpec
from tests.support.bundles import schema_of

SCHEMA = schema_of()
NUMBER = schema_of((), "regression")
RULES = ControlSpec()


def binary(rows, accuracy, seed=0):
    """Labels [rows], and scores [rows, 1] that point the right way with this chance."""
    chance = np.random.default_rng(seed)
    labels = (chance.random(rows) < 0.5).astype(float)
    right = chance.random(rows) < accuracy
    scores = np.where(right, labels, 1 - labels) * 0.8 + 0.1
    return labels, scores[:, None]


ROWS = 1200
LABELS, GOOD = binary(ROWS, 0.9)
BAD = 1 - GOOD


def verdict(scores, champion=None, rows=400, **more):
    held = Judged(
        LABELS[:rows],
        scores[:rows],
        None if champion is None else champion[:rows],
        **more.pop("held", {}),
    )
    return judge(SCHEMA, RULES, LABELS, held, 1.0, **more)


class TestAgainstAConstantAndTheChampion:
    def test_a_first_model_must_beat_a_constant(self):
        assert verdict(GOOD).outcome == "pass"
        assert verdict(BAD).outcome == "fail"
        assert verdict(GOOD, rows=ROWS_MIN - 1).outcome == "not enough data"
        assert verdict(GOOD, rows=ROWS_MIN).outcome == "pass"

    def test_a_challenger_must_do_no_harm(self):
        weaker = np.clip(0.5 + 0.1 * (GOOD - 0.5), 0, 1)
        assert verdict(GOOD, GOOD).outcome == "pass"
        assert verdict(GOOD, weaker).outcome == "pass"
        assert verdict(weaker, GOOD).outcome == "fail"
        assert verdict(GOOD, BAD, rows=ROWS_MIN - 1).outcome == "not enough data"

    def test_worse_than_no_model_is_refused_even_beside_a_champion_that_is_worse_still(self):
        assert verdict(BAD, np.where(BAD > 0.5, 1.0, 0.0)).outcome == "fail"

    def test_no_better_than_a_constant_may_replace_a_champion_that_is_worse(self):
        constant = np.full((ROWS, 1), float(LABELS[:400].mean()))
        assert (
            judge(SCHEMA, RULES, LABELS[:400], Judged(LABELS[:400], constant[:400]), 1.0).outcome
            == "not enough data"
        )
        assert verdict(constant, BAD).outcome == "pass"


class TestLastValue:
    """Labels that come in long runs: repeating the last one is right nine times in ten."""

    RUNS = np.repeat(np.random.default_rng(1).random(40) < 0.5, 10).astype(float)
    TIMES = np.arange(400) * DAY_S
    WEAK = np.where(RUNS > 0, 0.6, 0.4)[:, None]

    def of(self, champion=None, delay=None, scores=WEAK):
        held = Judged(self.RUNS, scores, champion, self.TIMES)
        return judge(SCHEMA, RULES, self.RUNS, held, 1.0, Beside(label_delay_days=delay))

    def test_a_challenger_that_loses_to_the_last_known_label_is_refused(self):
        found = self.of(self.WEAK, delay=0.5)
        assert found.outcome == "fail"
        assert "repeating the last known label" in found.reason

    def test_it_passes_where_that_label_comes_too_late_to_help(self):
        assert self.of(self.WEAK, delay=30).outcome == "pass"

    def test_it_passes_where_nobody_knows_how_late_labels_come(self):
        assert self.of(self.WEAK).outcome == "pass"

    def test_a_first_model_is_told_of_it(self):
        found = self.of()
        assert found.outcome == "pass"
        assert "beware, the model's loss is" in found.reason

    def test_several_classes_and_numbers_are_repeated_as_they_are(self):
        three = schema_of(("a", "b", "c"), "multiclass")
        labels = np.repeat(np.random.default_rng(2).integers(0, 3, 40), 10).astype(float)
        unsure = np.full((400, 3), 0.3) + 0.1 * np.eye(3)[labels.astype(int)]
        held = Judged(labels, unsure, unsure, self.TIMES)
        assert judge(three, RULES, labels, held, 1.0, Beside(label_delay_days=0)).failed
        walk = np.cumsum(np.random.default_rng(3).normal(size=400))
        rough = (walk + 9 * np.random.default_rng(4).normal(size=400))[:, None]
        held = Judged(walk, rough, rough, self.TIMES)
        assert judge(NUMBER, RULES, walk, held, 20.0, Beside(label_delay_days=0)).failed

    @given(
        st.lists(st.integers(0, 50), min_size=1, max_size=60).map(sorted),
        st.integers(0, 20),
    )
    def test_the_last_value_is_the_newest_that_was_known_before(self, moments, delay):
        times = np.array(moments, float)
        for row, place in enumerate(last_values(times, delay)):
            known = [other for other, moment in enumerate(moments) if moment < moments[row] - delay]
            assert place == (known[-1] if known else -1)


class TestSlices:
    BETTER = (GOOD + LABELS[:, None]) / 2

    def bad_where(self, rows):
        """Better than the champion on the whole, and worse on these rows."""
        return np.where(rows[:, None], 0.5 + 0.5 * (GOOD - 0.5), self.BETTER)

    def test_harm_to_one_slice_is_harm(self):
        jfk = np.arange(ROWS) < 300
        held = {"slices": {"origin=EWR": ~jfk, "origin=JFK": jfk}}
        assert verdict(self.bad_where(jfk), GOOD, ROWS).passed
        found = verdict(self.bad_where(jfk), GOOD, ROWS, held=held)
        assert found.outcome == "fail"
        assert found.reason.startswith("where origin=JFK, the challenger's loss")
        found = verdict(self.BETTER, GOOD, ROWS, held=held)
        assert found.passed
        assert "in none of 2 slices" in found.reason

    def test_a_slice_with_few_rows_is_not_looked_at(self):
        few = np.arange(ROWS) < SLICE_ROWS_MIN - 1
        held = {"slices": {"origin=JFK": few}}
        assert verdict(self.bad_where(few), GOOD, ROWS, held=held).passed

    def test_many_slices_share_the_chance_of_a_false_refusal(self):
        refused = 0
        for seed in range(200):
            chance = np.random.default_rng(seed)
            labels, one = binary(3000, 0.8, seed)
            other = np.where(chance.random((3000, 1)) < 0.2, 1 - one, one)
            swap = chance.random((3000, 1)) < 0.5  # neither of the two is better
            group = chance.integers(0, 10, 3000)
            slices = {f"g={number}": group == number for number in range(10)}
            held = Judged(
                labels, np.where(swap, one, other), np.where(swap, other, one), slices=slices
            )
            found = judge(SCHEMA, RULES, labels, held, 1.0)
            refused += found.reason.startswith("where")
        assert refused <= 20  # 5 in 100, and chance; each by itself it would be 40 in 100


class TestOtherGates:
    def test_harm_on_the_golden_set_is_refused_whatever_the_hold_out_says(self):
        trusted = Judged(LABELS, BAD, GOOD)
        found = verdict(GOOD, GOOD, golden=trusted)
        assert found.outcome == "fail"
        assert found.reason.startswith("on the golden set, ")
        assert verdict(GOOD, GOOD, golden=Judged(LABELS, GOOD, GOOD)).outcome == "pass"

    def test_a_golden_set_of_a_few_rows_is_no_judgement(self):
        few = Judged(LABELS[:9], GOOD[:9], GOOD[:9])
        assert verdict(GOOD, GOOD, golden=few).outcome == "not enough data"

    def test_labels_that_turned_suspect_are_refused_before_anything_is_compared(self):
        found = verdict(
            GOOD,
            GOOD,
            beside=Beside({"training_rate": 0.7}, {"training_rate": 0.3}),
        )
        assert found.outcome == "fail"
        assert "70.0% of the training labels are positive and 30.0% of the champion's" in (
            found.reason
        )
        assert verdict(
            GOOD, GOOD, beside=Beside({"training_rate": 0.6}, {"training_rate": 0.3})
        ).passed
        assert verdict(GOOD, GOOD, beside=Beside({"training_rate": 0.9})).passed
        assert verdict(
            GOOD, GOOD, beside=Beside({"training_rate": 1.0}, {"training_rate": 0.9})
        ).failed

    def test_a_target_that_moved_out_of_its_range_is_refused(self):
        usual = np.random.default_rng(1).normal(10, 2, 400)
        before = label_metrics(NUMBER, usual)
        held = Judged(usual, usual[:, None] + 0.1, usual[:, None])
        for now, passed in ((usual + 7, True), (usual * 1000, False)):
            beside = Beside(label_metrics(NUMBER, now), before)
            found = judge(
                NUMBER, RULES, usual, replace(held, champion_scores=held.scores), 5.0, beside
            )
            assert found.passed is passed

    @pytest.mark.parametrize(
        ("took", "usual", "passed"),
        [(20.0, 6.0, False), (20.0, 7.0, True), (4.9, 0.1, True), (None, 1.0, True)],
    )
    def test_a_slow_model_is_refused(self, took, usual, passed):
        beside = Beside(latency_ms=took, champion_latency_ms=usual)
        assert verdict(GOOD, GOOD, beside=beside).passed is passed
