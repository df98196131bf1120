"""From a fitted network to what may be published: gates, references and golden rows."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.control.learning import (
    GOLDEN_ROWS,
    ROWS_MIN,
    SCORE_BINS,
    golden,
    golden_rows,
    judge,
    measure,
    reference,
)
from hapredict.features.clock import Clock
from hapredict.registry.bundle import Reference, score_bin, unpack_counts
from hapredict.registry.store import encode_json
from hapredict.sections import DAY_S
from hapredict.sections_live import ServingSpec
from hapredict.training.metrics import losses
from tests.support.bundles import schema_of, table_of

SCHEMA = schema_of()


def binary(rows, accuracy, seed=0):
    """Labels [rows], and scores [rows, 1] that point the right way with this chance."""
    chance = np.random.default_rng(seed)
    labels = (chance.random(rows) < 0.5).astype(float)
    right = chance.random(rows) < accuracy
    scores = np.where(right, labels, 1 - labels) * 0.8 + 0.1
    return labels, scores[:, None]


class TestJudge:
    LABELS, GOOD = binary(400, 0.9)
    BAD = 1 - GOOD

    def verdict(self, scores, champion=None, rows=400):
        if champion is not None:
            champion = champion[:rows]
        labels = self.LABELS
        return judge(SCHEMA, labels, labels[:rows], scores[:rows], champion, 1.0).outcome

    def test_a_first_model_must_beat_a_constant(self):
        assert self.verdict(self.GOOD) == "pass"
        assert self.verdict(self.BAD) == "fail"
        assert self.verdict(self.GOOD, rows=ROWS_MIN - 1) == "not enough data"
        assert self.verdict(self.GOOD, rows=ROWS_MIN) == "pass"

    def test_a_challenger_must_do_no_harm(self):
        weaker = np.clip(0.5 + 0.1 * (self.GOOD - 0.5), 0, 1)
        assert self.verdict(self.GOOD, self.GOOD) == "pass"
        assert self.verdict(self.GOOD, weaker) == "pass"
        assert self.verdict(weaker, self.GOOD) == "fail"
        assert self.verdict(self.GOOD, self.BAD, rows=ROWS_MIN - 1) == "not enough data"

    def test_worse_than_no_model_is_refused_even_beside_a_champion_that_is_worse_still(self):
        assert self.verdict(self.BAD, np.where(self.BAD > 0.5, 1.0, 0.0)) == "fail"

    def test_no_better_than_a_constant_may_replace_a_champion_that_is_worse(self):
        constant = np.full((400, 1), float(self.LABELS.mean()))
        assert self.verdict(constant) == "not enough data"
        assert self.verdict(constant, self.BAD) == "pass"


class TestMeasure:
    def test_the_hold_out_says_what_decisions_cost(self):
        labels, scores = binary(400, 0.9)
        costs = ServingSpec(costs={"yes": {"no": 20}, "no": {"yes": 1}})
        found = measure(SCHEMA, costs, labels, scores, None, ())
        plain = measure(SCHEMA, ServingSpec(), labels, scores, None, ())
        assert set(found) - set(plain) == {"cost", "cost_without"}
        assert found["cost"] < found["cost_without"]
        assert {name: found[name] for name in plain} == plain

    def test_the_hold_out_says_how_good_quantiles_are(self):
        schema = schema_of((), "regression")
        labels = np.random.default_rng(1).normal(size=2000)
        levels = np.quantile(labels, [0.1, 0.5, 0.9]).astype(np.float32)
        extras = np.column_stack([np.tile(levels, (2000, 1)), np.ones(2000)])
        names = ("q0.1", "q0.5", "q0.9", "uncertainty")
        found = measure(schema, ServingSpec(), labels, extras[:, 1:2], extras, names)
        assert found["coverage"] == pytest.approx(0.8, abs=0.01)
        assert found["pinball"] > 0


class TestReference:
    BINS = np.array([3, 4])

    def of(self, labels, scores, before=None, schema=SCHEMA):
        return reference(schema, self.BINS, 7, labels, scores, before)

    @given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=80))
    def test_every_held_row_is_in_one_bin_of_scores(self, values):
        scores = np.array(values, np.float32)[:, None]
        labels = (np.arange(len(values)) % 2).astype(float)
        found = self.of(labels, scores)
        assert sum(found.score_counts) == len(values) == found.loss_rows
        assert len(found.score_counts) <= SCORE_BINS
        assert found.score_counts == tuple(
            np.bincount(score_bin(found, scores), minlength=len(found.score_counts))
        )
        assert found.loss_mean == losses("binary", labels, scores).mean()
        assert Reference.from_json(found.to_json()) == found

    def test_different_scores_fill_the_bins_evenly(self):
        scores = np.linspace(0.01, 0.99, 400)[:, None]
        found = self.of(np.zeros(400), scores)
        assert len(found.score_counts) == SCORE_BINS
        assert set(found.score_counts) == {20}
        assert (found.bins, found.rows) == ((3, 4), 7)

    def test_one_score_for_all_is_no_error(self):
        found = self.of(np.zeros(9), np.full((9, 1), 0.5))
        assert sum(found.score_counts) == 9

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
    def test_the_loss_baseline_never_rises_from_version_to_version(self, scores):
        before = None
        for score in scores:
            found = self.of(np.zeros(10), np.full((10, 1), score), before)
            assert before is None or found.loss_mean <= before.loss_mean
            assert found.loss_mean <= score**2 + 1e-12
            before = found

    def test_rows_with_a_time_are_also_counted_by_the_hour_and_survive_json(self):
        chance = np.random.default_rng(3)
        at_s = np.sort(chance.uniform(0, 40 * DAY_S, 4000))
        bins = chance.integers(0, 2, (4000, 1)).astype(np.int32)
        clocked = Clock.of(at_s[0], at_s[-1], 4000, 2).count(at_s, bins, (2,))
        found = reference(
            SCHEMA,
            clocked.hourly.sum(0),
            4000,
            np.zeros(900),
            chance.random((900, 1)),
            None,
            bin_totals=(2,),
            clocked=clocked,
            held_s=at_s[-900:],
        )
        assert (unpack_counts(found.hourly, 2) == clocked.hourly).all()
        by_hour = unpack_counts(found.score_hourly, SCORE_BINS)
        assert by_hour.sum(0).tolist() == list(found.score_counts)
        assert len(found.usual) == len(found.score_usual) == 1
        assert Reference.from_json(json.loads(encode_json(found.to_json()))) == found

    def test_a_baseline_keeps_the_rows_that_it_was_measured_on(self):
        before = self.of(np.zeros(5000), np.full((5000, 1), 0.2))
        found = self.of(np.zeros(20), np.full((20, 1), 0.6), before)
        assert (found.loss_mean, found.loss_rows) == (before.loss_mean, 5000)

    def test_a_regression_keeps_the_scale_of_its_first_version(self):
        schema = schema_of((), "regression")
        first = self.of(np.array([0.0, 10.0]), np.array([[1.0], [9.0]]), schema=schema)
        wide = self.of(np.array([0.0, 900.0]), np.array([[1.0], [9.0]]), first, schema=schema)
        assert wide.loss_scale == first.loss_scale > 0
        assert 0 <= wide.loss_mean <= first.loss_mean <= 1

    def test_several_classes_are_binned_by_the_strongest(self):
        schema = schema_of(("a", "b", "c"), "multiclass")
        scores = np.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]] * 5)
        found = self.of(np.array([1.0, 2.0] * 5), scores, schema=schema)
        assert sum(found.score_counts) == 10
        assert min(found.score_edges) >= 0.5


class TestGolden:
    @pytest.mark.parametrize("rows", [0, 1, GOLDEN_ROWS, 200])
    def test_golden_rows_are_few_different_and_from_first_to_last(self, rows):
        table = table_of(rows) if rows else {n: v[:0] for n, v in table_of(1).items()}
        numbered = {**table, "distance": np.arange(float(rows))}
        few = golden_rows(SCHEMA, numbered)
        picked = few["distance"].tolist()
        assert len(picked) == min(rows, GOLDEN_ROWS) == len(set(picked))
        assert not rows or (picked[0], picked[-1]) == (0.0, rows - 1.0)
        assert list(few) == ["收入", "distance", "性别", "carrier"]

    def test_stored_golden_rows_are_read_like_a_request(self):
        few = golden_rows(SCHEMA, table_of(200, seed=5))
        stored = golden(few, np.full((GOLDEN_ROWS, 1), 0.25, np.float32))
        schema = replace(SCHEMA, time=None, id=None)
        again = schema.table({name: list(column) for name, column in stored.rows.items()})
        for name in few:
            assert np.array_equal(again[name], few[name]) or np.array_equal(
                again[name], few[name], equal_nan=True
            )
        assert stored.scores == [[0.25]] * GOLDEN_ROWS
