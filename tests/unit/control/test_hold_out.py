"""What the hold-out says about losses by score and by slice."""

from dataclasses import replace

import numpy as np
import pytest

from hapredict.control.hold_out import check_slices, losses_by_score, losses_by_slice, with_hold_out
from hapredict.control.learning import reference
from hapredict.errors import GateRefused
from hapredict.registry.bundle import Reference
from hapredict.sections_live import MonitoringSpec
from hapredict.training.metrics import losses
from tests.support.bundles import plan_of, schema_of, spec_of, table_of

SCHEMA = schema_of()
TABLE = table_of(1000, seed=2, schema=SCHEMA)
PLAN = plan_of(SCHEMA, TABLE, spec_of())
SLICED = MonitoringSpec(slices=("carrier",), slice_values_max=3)


def honest(rows=1000, seed=1):
    chance = np.random.default_rng(seed)
    scores = chance.uniform(0, 1, rows)
    return (chance.random(rows) < scores).astype(float), scores[:, None]


def test_slices_must_be_category_columns():
    check_slices(SLICED, SCHEMA)
    with pytest.raises(
        GateRefused, match=r"'distance', 'nothing' .*category columns: 性别, carrier"
    ):
        check_slices(MonitoringSpec(slices=("distance", "nothing", "carrier")), SCHEMA)


def test_each_frequent_value_has_its_own_baseline():
    labels, scores = honest()
    measured = losses("binary", labels, scores)
    found = losses_by_slice(SLICED, PLAN, TABLE, measured)
    assert list(found) == ["carrier"]
    assert len(found["carrier"]) == 3
    for value, (mean, rows) in found["carrier"].items():
        held = measured[TABLE["carrier"] == value]
        assert rows == len(held) > 0
        assert mean == held.mean()


def test_a_value_that_the_hold_out_does_not_have_gets_the_mean_of_all_and_no_rows():
    labels, scores = honest()
    measured = losses("binary", labels, scores)
    none = {**TABLE, "carrier": np.array([None] * 1000, object)}
    found = losses_by_slice(SLICED, PLAN, none, measured)
    assert set(found["carrier"].values()) == {(measured.mean(), 0)}


def test_honest_scores_expect_what_comes_true():
    labels, scores = honest(20_000)
    found = reference(SCHEMA, np.array([1]), 1, labels, scores, None)
    means, spreads = losses_by_score(found, "binary", scores, losses("binary", labels, scores))
    middles = (np.arange(20) + 0.5) / 20
    assert means == pytest.approx(middles * (1 - middles), abs=0.01)
    assert (spreads > 0).all()


def test_scores_that_are_too_sure_are_corrected_by_what_they_are_off_on_the_whole():
    labels, scores = honest(20_000)
    sure = np.clip(1.5 * (scores - 0.5) + 0.5, 0.01, 0.99)
    found = reference(SCHEMA, np.array([1]), 1, labels, sure, None)
    measured = losses("binary", labels, sure)
    means, _ = losses_by_score(found, "binary", sure, measured)
    rows = np.array(found.score_counts)
    assert (means * rows).sum() / rows.sum() == pytest.approx(measured.mean(), abs=1e-3)


def test_a_bin_with_few_rows_is_drawn_to_the_mean_of_all():
    schema = schema_of((), "regression")
    labels = np.array([*([0.0] * 200), 50.0])
    scores = np.array([*np.linspace(-1, 1, 200), 2.0])[:, None]
    found = replace(
        reference(schema, np.array([1]), 1, labels, scores, None),
        score_edges=(1.5,),
        score_counts=(200, 1),
        loss_scale=100.0,
    )
    measured = losses("regression", labels, scores, 100.0)
    means, _ = losses_by_score(found, "regression", scores, measured)
    assert measured.mean() < means[1] < measured[-1] / 5


def test_all_of_it_is_stored_with_the_reference():
    labels, scores = honest()
    before = reference(SCHEMA, np.array([1]), 1, labels, scores, None)
    found = with_hold_out(
        before, SCHEMA, SLICED, PLAN, TABLE, labels, scores, lambda t: t["distance"][:, None], 1
    )
    assert found.importance["distance"] == 1
    assert Reference.from_json(found.to_json()) == found
    assert len(found.score_losses) == len(found.score_counts)
    old = {
        name: value
        for name, value in found.to_json().items()
        if name not in ("score_losses", "score_loss_spreads", "importance", "slices")
    }
    assert Reference.from_json(old) == before
