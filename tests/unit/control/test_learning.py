"""From a fitted network to what may be published: splits, gates, references and golden rows."""

import functools
import itertools
import operator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.control.learning import (
    GOLDEN_ROWS,
    ROWS_MIN,
    SCORE_BINS,
    Prepared,
    golden,
    golden_rows,
    judge,
    reference,
)
from hapredict.data.schema import rows_of, take
from hapredict.features.plan import count_bins
from hapredict.registry.bundle import Reference, score_bin
from hapredict.training.metrics import losses
from tests.support.bundles import plan_of, schema_of, spec_of, table_of

SCHEMA = schema_of()
ROWS = 40
TABLE = table_of(ROWS, seed=3)
PLAN = plan_of(SCHEMA, TABLE, spec_of())


def prepared_of(table, labels, order, cuts=(), held_from=7.0):
    places = [0, *sorted(cuts), len(labels)]
    blocks = [np.arange(start, max(start, end)) for start, end in itertools.pairwise(places)]
    return functools.reduce(
        operator.add,
        [
            Prepared.of(take(table, block), labels[block], order[block], PLAN, held_from)
            for block in blocks
        ],
    )


ORDERS = st.lists(st.integers(0, 9).map(float), min_size=ROWS, max_size=ROWS).map(np.array)


class TestPrepared:
    @settings(max_examples=30)
    @given(ORDERS, st.lists(st.integers(0, ROWS), max_size=3))
    def test_blocks_add_up_to_the_same_parts_however_the_rows_are_cut(self, order, cuts):
        labels = np.arange(ROWS) % 2.0
        whole = prepared_of(TABLE, labels, order)
        total = prepared_of(TABLE, labels, order, cuts)
        assert total.bins.tolist() == whole.bins.tolist()
        assert total.bins.tolist() == count_bins(PLAN.bins(TABLE), PLAN.bin_totals).tolist()
        for one, other in zip(total.parts(4.0, 7.0)[:3], whole.parts(4.0, 7.0)[:3], strict=True):
            assert one.numbers.tobytes() == other.numbers.tobytes()
            assert one.categories.tobytes() == other.categories.tobytes()
            assert one.labels.tolist() == other.labels.tolist()
        held = [prepared.parts(4.0, 7.0)[3]["order"].tolist() for prepared in (total, whole)]
        assert held[0] == held[1]

    @settings(max_examples=30)
    @given(ORDERS)
    def test_each_row_is_in_one_part_and_parts_follow_each_other_in_time(self, order):
        # the label is the row's number here, so rows can be told apart
        prepared = prepared_of(TABLE, np.arange(ROWS).astype(float), order)
        *parts, _ = prepared.parts(4.0, 7.0)
        rows = [part.labels.astype(int) for part in parts]
        assert sorted(np.concatenate(rows)) == list(range(ROWS))
        times = [order[part] for part in rows]
        assert (times[0] < 4.0).all()
        assert ((times[1] >= 4.0) & (times[1] < 7.0)).all()
        assert (times[2] >= 7.0).all()
        assert all((np.diff(part) >= 0).all() for part in times)

    @settings(max_examples=30)
    @given(ORDERS)
    def test_raw_rows_of_the_hold_out_match_its_matrices_row_by_row(self, order):
        prepared = prepared_of(TABLE, np.zeros(ROWS), order, cuts=(9, 25))
        *_, held, held_table = prepared.parts(4.0, 7.0)
        again = PLAN.apply(held_table)
        assert again.numbers.tobytes() == held.numbers.tobytes()
        assert again.categories.tobytes() == held.categories.tobytes()
        assert rows_of(held_table) == held.rows


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
