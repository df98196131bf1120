"""Each row gets the answer of its version, and the journal learns what it takes to judge it."""

import math

import numpy as np
import pytest

from hapredict.data.schema import take
from hapredict.errors import BadRequest, SchemaMismatch, TemporaryError, UnknownName
from hapredict.features.plan import count_bins
from hapredict.registry import catalog
from hapredict.serving.answers import predictions
from hapredict.serving.journal import NO_VERSION
from hapredict.serving.replica import Label
from tests.support.bundles import (
    START_S,
    change,
    columns_of,
    publish_linear,
    schema_of,
    spec_of,
    table_of,
)
from tests.support.replicas import NOW_S, TABLE, breaks, recorded, scores_of, try_second

# answers


def test_in_a_canary_a_key_decides_and_keeps_its_version(store, replica):
    try_second(store, share=0.5)
    replica.refresh()
    first = replica.predict(TABLE)
    assert set(first.versions.tolist()) == {1, 2}
    by_version = {1: "champion", 2: "challenger"}
    assert first.served_by == tuple(by_version[version] for version in first.versions.tolist())
    backwards = replica.predict(take(TABLE, np.arange(40)[::-1]))
    assert backwards.versions[::-1].tolist() == first.versions.tolist()
    change(store, catalog.share, 0.9, 30.0)
    replica.refresh()
    later = replica.predict(TABLE).versions
    assert (later >= first.versions).all()
    assert later.sum() > first.versions.sum()


def test_a_mixed_batch_gives_each_row_what_its_version_says(store, replica):
    try_second(store, share=0.5)
    replica.refresh()
    answer = replica.predict(TABLE)
    for number in (1, 2):
        rows = answer.versions == number
        np.testing.assert_allclose(answer.scores[rows], scores_of(replica, number)[rows], atol=1e-6)


@pytest.mark.parametrize("first", [(), ("uncertainty",)])
@pytest.mark.parametrize("second", [(), ("q0.1", "q0.9", "uncertainty")])
def test_each_row_has_beside_its_score_what_its_version_says(store, make, first, second):
    publish_linear(store, extras=first)
    try_second(store, share=0.5, extras=second)
    replica = make()
    replica.refresh()
    assert replica.extras == first
    answer = replica.predict(TABLE)
    if not first + second:
        assert answer.extras is None
        assert "uncertainty" not in predictions(answer)[0]
        return
    said = {1: dict.fromkeys(first), 2: dict.fromkeys(second)}
    pinned = {number: predictions(replica.predict(TABLE, version=number)) for number in (1, 2)}
    for place, row in enumerate(predictions(answer)):
        number = row["model_version"]
        assert ("uncertainty" in row) == ("uncertainty" in said[number])
        assert ("quantiles" in row) == ("q0.1" in said[number])
        for name in {"uncertainty", "quantiles"} & set(row):
            assert row[name] == pytest.approx(pinned[number][place][name], rel=1e-5)
    assert set(answer.versions.tolist()) == {1, 2}


@pytest.mark.parametrize("key", ["carrier", "distance"])
def test_a_sticky_key_keeps_its_rows_together(store, make, key):
    publish_linear(store)
    try_second(store, share=0.5)
    replica = make(spec=spec_of(serving={"sticky_key": key}))
    replica.refresh()
    table = {**TABLE, key: TABLE[key][np.arange(40) % 6]}
    answer = replica.predict(table)
    versions = {}
    for value, version in zip(table[key].tolist(), answer.versions.tolist(), strict=True):
        if value is not None:
            assert versions.setdefault(value, version) == version
    keys = recorded(store, replica, answer).keys
    if key == "distance":
        assert keys == tuple(str(int(value)) for value in table[key])
    else:
        assert keys == tuple(table[key].tolist())


def test_rows_without_a_key_are_split_one_by_one(store, replica):
    try_second(store, share=0.5)
    replica.refresh()
    table = {**TABLE, "order": np.full(40, None)}
    answer = replica.predict(table)
    assert set(answer.versions.tolist()) == {1, 2}
    assert recorded(store, replica, answer).keys == (None,) * 40


def test_prediction_ids_are_unique_short_and_safe_in_a_url(replica, make):
    other = make()
    other.refresh()
    ids = [id_ for _ in range(20) for one in (replica, other) for id_ in one.predict(TABLE).ids]
    assert len(set(ids)) == len(ids) == 1600
    assert all(id_.replace("-", "").isalnum() and len(id_) < 40 for id_ in ids)
    assert ids[0].startswith("20270115-r0-")


def test_a_pinned_version_answers_all_rows(store, replica):
    try_second(store)
    replica.refresh()
    answer = replica.predict(TABLE, version=2)
    assert set(answer.served_by) == {"pinned"}
    assert answer.model_version == 2
    np.testing.assert_array_equal(answer.scores, scores_of(replica, 2))
    with pytest.raises(UnknownName, match="known: 1, 2"):
        replica.predict(TABLE, version=3)


def test_a_request_without_rows_is_refused(replica):
    with pytest.raises(BadRequest, match="no rows"):
        replica.predict(table_of(0))


@pytest.mark.parametrize("scores", [None, np.nan, np.inf])
def test_a_challenger_that_fails_is_covered_by_the_champion(store, replica, scores):
    try_second(store, share=0.5)
    replica.refresh()
    expected = scores_of(replica, 1)
    breaks(replica, 2, scores)
    answer = replica.predict(TABLE)
    assert set(answer.versions.tolist()) == {1}
    np.testing.assert_array_equal(answer.scores, expected)
    assert replica.detail()["faults"] == 1
    part = recorded(store, replica, answer)
    assert set(part.other_versions.tolist()) == {NO_VERSION}
    assert replica.detail()["faults"] == 2
    assert "v2" in replica.detail()["last_fault"]


@pytest.mark.parametrize("scores", [None, np.nan])
def test_a_champion_that_fails_raises_and_never_answers_nan(replica, scores):
    breaks(replica, 1, scores)
    with pytest.raises(TemporaryError, match="v1"):
        replica.predict(TABLE)
    assert replica.detail()["faults"] == 1


def test_a_challenger_may_know_a_class_that_the_champion_does_not(store, make):
    two, three = schema_of(("a", "c"), "multiclass"), schema_of(("a", "b", "c"), "multiclass")
    publish_linear(store, schema=two)
    try_second(store, share=0.5, schema=three)
    replica = make()
    replica.refresh()
    answer = replica.predict(TABLE)
    assert answer.schema.classes == ("a", "b", "c")
    np.testing.assert_allclose(answer.scores.sum(axis=1), 1, atol=1e-6)
    by_champion = answer.versions == 1
    assert (answer.scores[by_champion, 1] == 0).all()
    assert (answer.scores[~by_champion, 1] > 0).all()
    part = recorded(store, replica, answer)
    assert (np.isnan(part.scores[:, 2]) == by_champion).all()
    assert (np.isnan(part.other_scores[:, 2]) == ~by_champion).all()
    replica.feedback([Label("p", "b", 1.0)])


# what is recorded


def assert_pairs(replica, part, others):
    for answered, other in others.items():
        rows = np.flatnonzero(part.versions == answered)
        assert len(rows)
        assert set(part.other_versions[rows].tolist()) == {other}
        for number, scores in ((answered, part.scores), (other, part.other_scores)):
            if number != NO_VERSION:
                expected = scores_of(replica, number)[rows]
                np.testing.assert_allclose(scores[rows], expected, atol=1e-6)


def test_a_champion_alone_is_recorded_without_a_pair(store, replica):
    part = recorded(store, replica, replica.predict(TABLE))
    assert_pairs(replica, part, {1: NO_VERSION})
    assert part.at_s.tolist() == part.event_s.tolist() == [NOW_S] * 40
    assert part.keys == tuple(TABLE["order"])
    assert part.ids == part.ids[:40]
    for name, values in TABLE.items():
        np.testing.assert_array_equal(part.table[name], values)


def test_in_shadow_the_challenger_scores_every_row_afterwards(store, replica):
    try_second(store)
    replica.refresh()
    answer = replica.predict(TABLE)
    assert set(answer.versions.tolist()) == {1}
    assert_pairs(replica, recorded(store, replica, answer), {1: 2})


def test_in_a_canary_both_sides_are_paired(store, replica):
    try_second(store, share=0.5)
    replica.refresh()
    part = recorded(store, replica, replica.predict(TABLE))
    assert_pairs(replica, part, {1: 2, 2: 1})


def test_after_a_promotion_the_former_champion_is_paired(store, replica):
    try_second(store)
    change(store, catalog.promote, 30.0)
    replica.refresh()
    assert_pairs(replica, recorded(store, replica, replica.predict(TABLE)), {2: 1})
    change(store, catalog.settle, 40.0)
    replica.refresh()
    part = recorded(store, replica, replica.predict(TABLE))
    assert part.other_versions.tolist() == [1] * 40 + [NO_VERSION] * 40


@pytest.mark.parametrize("share", [None, 0.5, 0.99])
def test_windows_count_the_champions_bins_and_scores_of_every_row(store, replica, share):
    try_second(store, share)
    replica.refresh()
    champion = replica._routes.champion
    part = recorded(store, replica, *(replica.predict(TABLE) for _ in range(3)))
    (window,) = part.windows
    assert (window.version, window.rows) == (1, 120)
    assert window.bucket == math.floor(NOW_S / 3600)
    plan = champion.plan
    expected = 3 * count_bins(plan.bins(TABLE), plan.bin_totals)
    np.testing.assert_array_equal(window.bins, expected)
    edges = np.searchsorted(
        champion.reference.score_edges, scores_of(replica, 1)[:, 0], side="right"
    )
    assert window.scores.sum() == 120
    np.testing.assert_array_equal(window.scores, 3 * np.bincount(edges, minlength=10))


def test_rows_pinned_to_another_version_are_recorded_and_not_counted(store, replica):
    try_second(store)
    replica.refresh()
    pinned = [replica.predict(TABLE, version=number) for number in (1, 2)]
    part = recorded(store, replica, *pinned)
    assert part.versions.tolist() == [1] * 40 + [2] * 40
    assert set(part.other_versions.tolist()) == {NO_VERSION}
    assert sum(window.rows for window in part.windows) == 40


def test_on_the_event_clock_a_row_happens_at_its_own_time(store, make):
    spec = spec_of(monitoring={"clock": "event"})
    publish_linear(store, spec=spec)
    replica = make()
    replica.refresh()
    table = {**TABLE, "at": START_S + 86_400 * (np.arange(40) // 20)}
    answer = replica.predict(table)
    assert [answer.ids[row][:8] for row in (0, 39)] == ["20231114", "20231115"]
    part = recorded(store, replica, answer)
    np.testing.assert_array_equal(part.event_s, table["at"])
    assert set(part.at_s.tolist()) == {NOW_S}
    first = math.floor(START_S / 3600)
    assert [(w.bucket, w.rows) for w in part.windows] == [(first, 20), (first + 24, 20)]


def test_on_the_event_clock_a_row_without_time_is_refused(store, make):
    publish_linear(store, spec=spec_of(monitoring={"clock": "event"}))
    replica = make()
    replica.refresh()
    columns = columns_of(2)
    del columns["at"]
    with pytest.raises(SchemaMismatch, match="at: is missing"):
        replica.predict(replica.schema.table(columns))
    with pytest.raises(SchemaMismatch):
        replica.predict(replica.schema.table({**columns, "at": [START_S, None]}))


def test_requests_with_and_without_optional_columns_share_a_part(store, replica):
    columns = columns_of(3, seed=8)
    bare = {name: columns[name] for name in columns if name not in ("at", "order")}
    answers = [replica.predict(replica.schema.table(some)) for some in (bare, columns)]
    part = recorded(store, replica, *answers)
    assert part.keys == (None, None, None, *columns["order"])
    np.testing.assert_array_equal(part.table["at"], [np.nan] * 3 + columns["at"])
