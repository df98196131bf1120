"""What a batch prediction has to do: each row in one part, and what is left after any end."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.serving.batch_plan import (
    SUMMARY,
    File,
    Part,
    Plan,
    Progress,
    Receipt,
    difference,
    input_of,
    is_ours,
    parts_of,
)

GROUPS = st.none() | st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99)), max_size=6)
FILES = st.lists(GROUPS, max_size=6).map(
    lambda found: [
        File(f"f{place}", 100 + place, 5, ("a",), None if groups is None else tuple(groups))
        for place, groups in enumerate(found)
    ]
)
ABOUT = {
    "format": 2,
    "model": "orders",
    "version": 3,
    "digest": "d",
    "threshold": None,
    "columns": ["order"],
    "input": {"files": 1, "bytes": 10, "fingerprint": "f"},
}


def plan_of(groups=8):
    file = File("f", 80, 5, ("a",), ((10, 10),) * groups)
    return Plan(ABOUT, parts_of([file], rows_max=10))


def receipt_of(plan, place, rows=10):
    return Receipt(place, plan.file_of(place) if rows else "", rows, 1, 5, "hash", 0.5)


@given(FILES, st.integers(1, 30), st.integers(1, 300))
def test_every_row_group_is_in_one_part_and_in_its_order(files, rows_max, bytes_max):
    parts = parts_of(files, rows_max, bytes_max)
    assert [part.place for part in parts] == list(range(len(parts)))
    pieces = [piece for part in parts for piece in part.pieces]
    groups = [(piece.file, group) for piece in pieces for group in range(piece.first, piece.end)]
    assert groups == sorted(set(groups))
    with_rows = {
        (file.name, place)
        for file in files
        for place, (rows, _) in enumerate(file.groups or ())
        if rows
    }
    assert with_rows <= set(groups)
    whole = [piece.file for piece in pieces if not piece.end]
    assert whole == [file.name for file in files if file.groups is None]
    assert [piece.file for piece in pieces] == sorted(piece.file for piece in pieces)
    assert sum(piece.rows or 0 for piece in pieces) == sum(
        rows for file in files for rows, _ in file.groups or ()
    )


@given(FILES, st.integers(1, 30), st.integers(1, 300))
def test_a_part_is_small_unless_one_row_group_or_file_is_not(files, rows_max, bytes_max):
    for part in parts_of(files, rows_max, bytes_max):
        rows = sum(piece.rows or 0 for piece in part.pieces)
        groups = [
            group
            for piece in part.pieces
            for file in files
            if file.name == piece.file
            for group in (file.groups or ((0, 0),))[piece.first : piece.end or None]
        ]
        alone = sum(1 for count, size in groups if count or size) <= 1 or len(part.pieces) == 1
        assert (rows <= rows_max and part.bytes <= bytes_max) or alone


@given(FILES)
def test_a_part_is_the_same_after_a_trip_through_json(files):
    for part in parts_of(files, 10, 100):
        assert Part.from_json(json.loads(json.dumps(part.to_json()))) == part


@given(st.sets(st.integers(0, 7)), st.sets(st.integers(0, 7)))
def test_what_has_a_receipt_and_a_file_is_not_scored_again_and_all_else_is(told, written):
    plan = plan_of()
    receipts = [receipt_of(plan, place) for place in told]
    names = {SUMMARY, *map(plan.file_of, written), *map(plan.receipt_of, told)}
    left = [part.place for part in plan.left(receipts, names)]
    assert left == sorted(set(range(8)) - (told & written))


@given(st.lists(st.sets(st.integers(0, 7)), max_size=5))
def test_however_often_it_is_killed_each_part_is_scored_and_counted_once(runs):
    plan, receipts, names, scored = plan_of(), {}, set(), []
    for ended in [*runs, set(range(8))]:
        for part in plan.left(receipts.values(), names):
            if part.place in ended:
                names.add(plan.file_of(part.place))
                receipts[part.place] = receipt_of(plan, part.place)
                scored.append(part.place)
    assert sorted(scored) == list(range(8))
    summary = plan.summary(receipts.values(), 10, 2.0)
    assert (summary["complete"], summary["rows"], summary["unreadable"]) == (True, 80, 8)
    assert (summary["rows_per_s"], summary["cpu_s"]) == (5.0, 4.0)
    assert [part["name"] for part in summary["parts"]] == sorted(names)


def test_a_part_without_rows_has_a_receipt_and_no_file():
    plan = plan_of(groups=2)
    receipts = [receipt_of(plan, 0, rows=0), receipt_of(plan, 1)]
    assert plan.left(receipts, {plan.file_of(1)}) == ()
    assert len(plan.summary(receipts, 10, 1.0)["parts"]) == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": 4}, "it is of v3, and v4 would answer (--version 3 goes on with v3)"),
        ({"model": "other"}, "it is of model 'orders', not 'other'"),
        ({"threshold": 0.5}, "serving.threshold None, and the spec has 0.5"),
        ({"columns": []}, "keeps the columns ['order'], not []"),
        ({"digest": "e"}, "other bytes"),
        ({"format": 3}, "another release"),
        ({"new": 1}, "another release"),
        ({"input": {"files": 2, "bytes": 10, "fingerprint": "g"}}, "was 1 files of 10 bytes"),
        ({"input": {"files": 1, "bytes": 10, "fingerprint": "g"}}, "was changed since"),
    ],
)
def test_another_prediction_has_another_key_and_says_what_differs(change, told):
    plan, other = plan_of(), Plan(ABOUT | change, plan_of().parts)
    assert plan.key != other.key
    assert told in difference(plan.begun(), other.about)
    stale = {other.file_of(0), other.receipt_of(0), "000001.parquet"}
    ours = {plan.file_of(0), plan.receipt_of(0), SUMMARY, "notes.txt", "mine.parquet"}
    assert set(plan.strangers(stale | ours)) == stale


def test_the_same_prediction_differs_in_nothing():
    plan = plan_of()
    assert difference(json.loads(json.dumps(plan.begun())), plan.about) == ""
    assert plan.key == Plan(dict(reversed(ABOUT.items())), ()).key


def test_names_that_are_not_ours_are_left_alone():
    assert not any(map(is_ours, (SUMMARY, "part-1.parquet", "x/part-1-ab.parquet", "a.csv")))


@given(FILES.filter(bool), st.data())
def test_the_fingerprint_changes_with_any_file(files, data):
    place = data.draw(st.integers(0, len(files) - 1))
    change = data.draw(st.sampled_from([{"name": "other"}, {"bytes": 1}, {"changed_ns": 6}]))
    changed = [*files]
    changed[place] = replace(files[place], **change)
    assert input_of(changed)["fingerprint"] != input_of(files)["fingerprint"]


def test_progress_tells_the_pace_of_this_run_and_what_is_left():
    plan = plan_of()
    earlier = [receipt_of(plan, place) for place in range(2)]
    began = Progress.of(plan, earlier, range(2), 1.0)
    assert (began.rows_now, began.left_s) == (0, None)
    assert began.sentence() == "2 of 8 parts, 20 rows"
    now = Progress.of(plan, [*earlier, receipt_of(plan, 5), receipt_of(plan, 2)], range(2), 4.0)
    assert (now.rows, now.rows_now, now.rows_per_s, now.left_s) == (40, 20, 5.0, 8.0)
    assert now.sentence() == "4 of 8 parts, 40 rows, 5 rows/s, 8 s left"
