"""How far back a training looks, decided on real rows; the gap before what judges; golden rows."""

from pathlib import Path

import numpy as np
import pytest

from hapredict.control.ray_judging import golden_set, timed_ms
from hapredict.control.ray_window import within_window
from hapredict.data.ray_dataset import find_files, open_dataset
from hapredict.errors import DataError
from hapredict.registry.store import open_store
from hapredict.sections import DAY_S
from hapredict.sections_live import ControlSpec
from hapredict.training.prepared import Recipe
from hapredict.training.ray_prepare import cut_rows, prepare, read_rows
from hapredict.training.shards import load
from tests.support.people import START_S, people, small_spec, write

DAYS = 200.0
ROWS = 8000


def history(path, changed_at):
    """Two stretches of people; in the second one what counts as a low income has risen."""
    first = people(int(ROWS * changed_at), DAYS * changed_at, seed=1)
    begin_s = START_S + DAYS * changed_at * DAY_S
    rest, days = ROWS - len(first), DAYS * (1 - changed_at)
    then = people(rest, days, start_s=begin_s, seed=2, raised=4000.0) if rest else []
    for row in then:
        row["收入"] = round(row["收入"] - 4000.0, 1) if row["bad"] else row["收入"]
    return write(path, [*first, *then])


def read(cluster, source, purge_s=0.0):
    spec = small_spec("orders", source)
    recipe = Recipe.of(spec.data, spec.features, spec.training, purge_s)
    files = find_files(recipe.data, Path(cluster.home))
    return read_rows(open_dataset(files, recipe.data), recipe), recipe


def test_rows_of_a_world_that_is_gone_are_left_out_and_those_of_this_one_are_not(cluster, tmp_path):
    rows, recipe = read(cluster, history(tmp_path / "changed.csv", 0.45))
    found, window = within_window(rows, recipe, "auto", 0)
    assert window.days is not None, window.reason
    assert "in the back-test" in window.reason
    assert found.counts.used + found.counts.outside == rows.counts.used == ROWS
    assert cut_rows(found, recipe) == cut_rows(rows, recipe)

    rows, recipe = read(cluster, history(tmp_path / "same.csv", 1.0))
    found, window = within_window(rows, recipe, "auto", 0)
    assert window.days is None
    assert "no shorter window beats them" in window.reason
    assert found is rows


def test_a_window_and_a_gap_take_rows_from_training_and_none_from_what_judges(cluster, tmp_path):
    source = history(tmp_path / "rows.csv", 1.0)
    store = open_store(str(tmp_path / "store"))
    rows, recipe = read(cluster, source)
    whole = prepare(rows, recipe, store, "orders", "whole", None)
    gap_s = 5 * DAY_S
    rows, recipe = read(cluster, source, gap_s)
    validation_s, held_s = cut_rows(rows, recipe)
    some, window = within_window(rows, recipe, 60.0, 0)
    assert window.reason == "the newest 60 days, as the spec says"
    part = prepare(some, recipe, store, "orders", "part", None)
    assert np.array_equal(part.held.labels, whole.held.labels)
    assert part.held_table["time"].min() == held_s
    assert part.first >= validation_s - 60 * DAY_S
    assert part.train.rows < 0.5 * whole.train.rows
    assert 0 < part.validation.rows < whole.validation.rows
    assert load(part.train).rows == part.train.rows

    rows, recipe = read(cluster, source, 100 * DAY_S)
    with pytest.raises(DataError, match="choose a longer window, a shorter gap"):
        prepare(rows, recipe, store, "orders", "nothing", None)


def test_the_golden_set_is_read_like_data_and_scored_by_both(cluster, tmp_path):
    rows = people(300, seed=5)
    rows[0]["bad"] = None
    write(tmp_path / "golden.csv", rows)
    spec = small_spec("orders", str(tmp_path / "golden.csv"))
    found, _ = read(cluster, str(tmp_path / "golden.csv"))

    def score(table):
        return np.zeros((len(table["age"]), 1))

    rules = ControlSpec(golden="golden.csv")
    judged = golden_set(rules, spec.data, tmp_path, found.schema, score, score)
    assert judged is not None
    assert len(judged.labels) == len(judged.scores) == len(judged.champion_scores) == 299
    assert golden_set(ControlSpec(), spec.data, tmp_path, found.schema, score, score) is None
    with pytest.raises(DataError, match=r"gone\.csv"):
        golden_set(ControlSpec(golden="gone.csv"), spec.data, tmp_path, found.schema, score, score)


def test_times_are_taken_in_turns_and_the_fastest_counts():
    now_s, order = [0.0], []

    def takes(name, seconds):
        left = list(seconds)

        def score(_):
            order.append(name)
            now_s[0] += left.pop(0) if len(left) > 1 else left[0]

        return score

    pair = takes("a", [9.0, 0.25, 0.5]), takes("b", [0.75])
    assert timed_ms(pair, {}, lambda: now_s[0]) == [250.0, 750.0]
    assert order[:4] == ["a", "b", "a", "b"]
