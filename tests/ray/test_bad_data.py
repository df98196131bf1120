"""Data and specs that cannot be learned from end at once, and nothing is left of them."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from hapredict.control.ray_apply import apply
from hapredict.control.specs import applied_models
from hapredict.errors import DataError, SpecError
from tests.support.people import people, small_spec, write

ROWS = people(200)
WITHIN_S = 30
"""Importing TensorFlow and starting a training take longer on a busy machine; a look does not."""


def changed(**changes):
    return [{**row, **{name: of(row) for name, of in changes.items()}} for row in ROWS]


CASES = {
    "no rows at all": (ROWS[:1], {}, "no rows"),
    "one class": (changed(bad=lambda row: 0), {}, "bad: "),
    "a column without values": (changed(age=lambda row: None), {}, "age: "),
    "a leak by its name": (changed(is_bad=lambda row: row["bad"]), {}, "is_bad: "),
    "a time column that is not there": (ROWS, {"time": "when"}, "when: "),
    "a target that is not there": (ROWS, {"target": "good"}, "good: "),
    "an excluded column that is not there": (ROWS, {"exclude": ["colour"]}, "colour: "),
    "a declared column that is not there": (ROWS, {"columns": {"身高": "number"}}, "身高: "),
}


@pytest.mark.parametrize("case", CASES)
def test_data_that_cannot_be_learned_from_end_an_apply_at_once(cluster, tmp_path, case):
    rows, data, named = CASES[case]
    home = Path(cluster.home)
    source = write(tmp_path / "rows.csv", rows)
    if case == "no rows at all":
        Path(source).write_text(",".join(rows[0]) + "\n", encoding="utf-8")
    spec = small_spec("bad_data", source, data=data)
    told = []
    began_s = time.monotonic()
    with pytest.raises(DataError) as caught:
        apply(spec, home, lambda text, _: told.append(text), wait_s=120)
    assert time.monotonic() - began_s < WITHIN_S
    assert named in str(caught.value)
    assert told == ["reading the data"]
    assert "bad_data" not in applied_models(home)
    assert not (home / "store" / "specs" / "bad_data").exists()


def test_files_that_are_not_there_are_named(cluster, tmp_path):
    spec = small_spec("bad_data", tmp_path / "nothing-*.csv")
    with pytest.raises(DataError, match="nothing-"):
        apply(spec, Path(cluster.home), lambda *_: None, wait_s=120)


def test_a_bad_spec_ends_the_command_with_each_fault_and_its_path(cluster, tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(
        "name: bad_spec\n"
        "data: {sources: [x.csv], target: bad, tme: time}\n"
        "training: {workers: 0}\n",
        encoding="utf-8",
    )
    ended = subprocess.run(
        [Path(sys.executable).parent / "hapredict", "--home", cluster.home, "apply", path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == SpecError.exit_code
    assert "data.tme" in ended.stderr
    assert "did you mean 'time'" in ended.stderr
    assert "training.workers" in ended.stderr
    assert "Traceback" not in ended.stderr
