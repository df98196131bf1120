import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.monitoring import labels as labels_module
from hapredict.monitoring.labels import LabelJoin
from hapredict.serving.journal import Label, PredictionPart

DELAY_S = 1000.0


def part(ids, event_s=0.0, version=1, other=0, width=1):
    rows = len(ids)
    values = np.arange(rows * width, dtype=float).reshape(rows, width)
    return PredictionPart(
        source="a",
        seq=1,
        ids=tuple(ids),
        at_s=np.full(rows, float(event_s)),
        event_s=np.full(rows, float(event_s)),
        keys=(None,) * rows,
        versions=np.full(rows, version),
        scores=values,
        other_versions=np.full(rows, other),
        other_scores=values + 0.5,
        table={},
        windows=(),
    )


def add(join, *pairs, at_s=10.0):
    found = [Label(name, value, at_s) for name, value in pairs]
    return join.add_labels(found, [at_s] * len(found), DELAY_S)


def test_labels_meet_their_predictions_in_the_order_in_which_they_came():
    join = LabelJoin()
    join.add_predictions(part(["a", "b", "c"], event_s=3, version=4, other=5), DELAY_S)
    joined = add(join, ("c", "yes"), ("a", "no"))
    assert joined.values == ("yes", "no")
    assert joined.scores.tolist() == [[2.0], [0.0]]
    assert joined.other_scores.tolist() == [[2.5], [0.5]]
    assert joined.versions.tolist() == [4, 4]
    assert joined.other_versions.tolist() == [5, 5]
    assert joined.event_s.tolist() == [3, 3]


def test_the_first_label_of_a_prediction_counts_and_others_are_counted():
    join = LabelJoin()
    join.add_predictions(part(["a"]), DELAY_S)
    assert add(join, ("a", "yes"), ("a", "no")).values == ("yes",)
    assert add(join, ("a", "yes")).values == ()
    assert join.repeated == 2


def test_a_label_waits_for_a_prediction_that_is_not_visible_yet():
    join = LabelJoin()
    assert add(join, ("a", "yes"), ("b", "no"), ("a", "no")).values == ()
    assert (join.waiting, join.repeated) == (2, 1)
    joined = join.add_predictions(part(["x", "a"]), DELAY_S)
    assert joined.values == ("yes",)
    assert (join.waiting, joined.scores.tolist()) == (1, [[1.0]])
    assert add(join, ("a", "no")).values == ()
    assert join.repeated == 2


def test_a_label_whose_prediction_never_appears_is_given_up_after_the_longest_delay():
    join = LabelJoin()
    add(join, ("ghost", 1), at_s=10)
    join.forget(0, DELAY_S)
    join.forget(1009, DELAY_S)
    assert (join.waiting, join.unmatched) == (1, 0)
    join.forget(1100, DELAY_S)
    assert (join.waiting, join.unmatched) == (0, 1)


def test_a_label_that_comes_too_late_is_counted_and_not_joined():
    join = LabelJoin()
    join.add_predictions(part(["a", "b"], event_s=0), DELAY_S)
    assert add(join, ("a", 1), at_s=DELAY_S + 1).values == ()
    assert add(join, ("b", 1), at_s=DELAY_S).values == (1,)
    assert join.late == 1


def test_predictions_are_forgotten_so_that_memory_is_bounded():
    join = LabelJoin()
    for day in range(200):
        ids = [f"{day}-{row}" for row in range(20)]
        join.add_predictions(part(ids, event_s=day * 100), DELAY_S)
        join.forget(day * 100, DELAY_S)
    assert join.predictions <= 20 * 15
    assert add(join, ("199-3", 1), at_s=19_900).values == (1,)


def test_labels_for_nobody_cannot_fill_the_memory(monkeypatch):
    monkeypatch.setattr(labels_module, "WAITING_MAX", 100)
    join = LabelJoin()
    add(join, *((f"ghost-{row}", 1) for row in range(300)))
    assert (join.waiting, join.unmatched) == (100, 200)


def test_a_kept_prediction_of_one_score_takes_33_bytes():
    join = LabelJoin()
    join.add_predictions(part([f"row-{row}" for row in range(1000)]), DELAY_S)
    assert sum(array.nbytes for array in join.arrays().values()) == 33 * 1000


def test_versions_with_different_numbers_of_outputs_live_together():
    join = LabelJoin()
    join.add_predictions(part(["a"], width=1), DELAY_S)
    join.add_predictions(part(["b"], width=3), DELAY_S)
    joined = add(join, ("a", 1), ("b", 1))
    np.testing.assert_array_equal(joined.scores, [[0, np.nan, np.nan], [0, 1, 2]])


def test_a_row_without_a_time_of_its_own_happened_when_it_was_asked_for():
    join = LabelJoin()
    timeless = replace(part(["a"], event_s=7), event_s=np.array([np.nan]))
    join.add_predictions(timeless, DELAY_S)
    assert add(join, ("a", 1)).event_s.tolist() == [7]


IDS = st.sampled_from([f"id-{i}" for i in range(12)])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("predict"), st.lists(IDS, max_size=4, unique=True)),
        st.tuples(st.just("label"), st.lists(st.tuples(IDS, st.integers(0, 1)), max_size=4)),
        st.tuples(st.just("restore"), st.none()),
    ),
    max_size=25,
)


@given(STEPS)
@settings(max_examples=60)
def test_it_joins_what_a_plain_dictionary_would_and_survives_being_written_down(steps):
    join = LabelJoin()
    predicted, labelled, waiting, expected, repeated = set(), set(), {}, [], 0
    found = []
    for kind, what in steps:
        if kind == "restore":
            raw = json.loads(json.dumps(join.to_json()))
            join = LabelJoin.from_json(raw, {k: a.copy() for k, a in join.arrays().items()})
        elif kind == "predict":
            fresh = [name for name in what if name not in predicted]
            if fresh:
                found += join.add_predictions(part(fresh), DELAY_S).values
            predicted.update(fresh)
            for name in fresh:
                if name in waiting:
                    expected.append(waiting.pop(name))
                    labelled.add(name)
        else:
            found += add(join, *((name, f"{name}={value}") for name, value in what)).values
            for name, value in what:
                if name in labelled or name in waiting:
                    repeated += 1
                elif name in predicted:
                    labelled.add(name)
                    expected.append(f"{name}={value}")
                else:
                    waiting[name] = f"{name}={value}"
    assert found == expected
    assert (join.waiting, join.repeated) == (len(waiting), repeated)


def test_ids_of_any_text_can_be_joined():
    join = LabelJoin()
    odd = ["", "收入", "\ud800", "a" * 10_000]
    join.add_predictions(part(odd), DELAY_S)
    assert add(join, *((name, 1) for name in odd)).values == (1, 1, 1, 1)


@pytest.mark.parametrize("rows", [0, 1])
def test_an_empty_part_changes_nothing(rows):
    join = LabelJoin()
    assert join.add_predictions(part(["a"][:rows]), DELAY_S).values == ()
    assert join.add_labels([], [], DELAY_S).values == ()
    assert add(join, ("b", 1)).values == ()
    assert join.predictions == rows
