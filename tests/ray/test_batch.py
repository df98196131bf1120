"""A batch prediction that is killed goes on where it stopped, and ends as if nothing had been."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hapredict.control.specs import read_spec
from hapredict.errors import ClusterUnavailable, DataError
from hapredict.serving.batch_plan import RECEIPTS, SUMMARY, parts_of
from hapredict.serving.decisions import Rule
from hapredict.serving.ray_batch import Asked, predict_files
from hapredict.serving.ray_batch_part import TRIES, Scorer, Work, look_at
from tests.support.people import FIELDS, people, write

JOB = Path(__file__).parents[2] / "jobs" / "batch_predict.py"
ROWS, PART_ROWS = 1600, 20
WAIT_S = 120


@pytest.fixture(scope="module")
def source(model):
    """Rows in eighty row groups, each a part."""
    folder = Path(model.home) / "data" / "killed"
    folder.mkdir(parents=True)
    rows = pa.Table.from_pandas(pd.DataFrame(people(ROWS, seed=9))[list(FIELDS)])
    pq.write_table(rows, folder / "rows.parquet", row_group_size=PART_ROWS)
    return folder


@pytest.fixture
def predict(model, source):
    """Predict in this process."""

    def go(output, tell=lambda _: None):
        asked = Asked(str(source), str(output), version=1, part_rows=PART_ROWS)
        return predict_files(
            model.store, read_spec(model.store, model.name), asked, model.home, tell
        )

    return go


def receipts(output):
    return sorted(output.glob(f"{RECEIPTS}/*/*.json"))


def job_until(model, source, output, more, number):
    """Run the job until there are `more` receipts, and send it a signal; its end and its words."""
    wanted = len(receipts(output)) + more
    command = [sys.executable, str(JOB), model.name, str(source), str(output)]
    job = subprocess.Popen(
        [*command, "--version=1", f"--part-rows={PART_ROWS}", "--actors=1"],
        env={**os.environ, "HAPREDICT_HOME": str(model.home), "NO_COLOR": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline_s = time.monotonic() + WAIT_S
    while len(receipts(output)) < wanted:
        assert job.poll() is None, job.communicate()[1]
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    job.send_signal(number)
    _, told = job.communicate(timeout=WAIT_S)
    return job.returncode, told


def processes(model):
    """The processes that score."""
    from hapredict.control.ray_embedded import find

    for process in psutil.Process(find(model.home).pid).children(recursive=True):
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if title.startswith("ray::") and "Scorer" in title:
            yield process


def test_a_killed_prediction_goes_on_and_ends_as_an_undisturbed_one(
    model, source, predict, tmp_path
):
    output, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    code, _ = job_until(model, source, output, 3, signal.SIGKILL)
    assert code == -signal.SIGKILL
    code, told = job_until(model, source, output, 3, signal.SIGTERM)
    assert code == 130, told
    assert "the same job goes on where it stopped" in told
    assert not json.loads((output / SUMMARY).read_text())["complete"]
    before = {path: path.stat().st_mtime_ns for path in receipts(output)}
    assert 6 <= len(before) < ROWS // PART_ROWS
    killed = []

    def kill_once(progress):
        if progress.rows_now and not killed:
            killed.extend(processes(model))
            killed[0].kill()

    done = predict(output, kill_once)
    assert killed
    assert (done.rows, done.scored) == (ROWS, ROWS - len(before) * PART_ROWS)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    predict(undisturbed)
    assert pq.read_table(output).equals(pq.read_table(undisturbed))
    summary = json.loads((output / SUMMARY).read_text())
    assert (summary["complete"], summary["rows"]) == (True, ROWS)
    for part in summary["parts"]:
        data = (output / part["name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == part["sha256"]
    names = {path.name for path in output.glob("*.parquet")}
    assert names == {part["name"] for part in summary["parts"]}

    again = predict(output)
    assert (again.rows, again.scored, again.summary) == (ROWS, 0, summary)

    lost = output / summary["parts"][5]["name"]
    lost.unlink()
    mended = predict(output)
    assert (mended.rows, mended.scored) == (ROWS, PART_ROWS)
    assert mended.summary["parts"] == summary["parts"]


@pytest.fixture
def scorer(model, tmp_path):
    """A scoring process's inside, in this process."""
    version = model.catalog.latest().state.versions[1]
    wanted = tuple(column for column in FIELDS if column != "time")
    output = (tmp_path / "out").as_uri()
    where = (model.store.url, output, model.name, version)
    return Scorer(Work(*where, Rule(), model.spec.data, wanted, ("order",)))


def test_a_file_that_changes_on_the_way_is_not_scored(scorer, tmp_path):
    file = tmp_path / "rows.csv"
    write(file, people(30, seed=3))
    (part,) = parts_of([look_at(str(file))])
    assert scorer.score(part, "part.parquet", "_parts/part.json").rows == 30
    write(file, people(31, seed=3))
    with pytest.raises(DataError, match=r"rows\.csv: was changed"):
        scorer.score(part, "part.parquet", "_parts/part.json")
    file.unlink()
    with pytest.raises(DataError, match=r"rows\.csv: was changed"):
        scorer.score(part, "part.parquet", "_parts/part.json")


def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path):
    (tmp_path / "rows.parquet").write_text("no Parquet")
    with pytest.raises(DataError, match=r"rows\.parquet: cannot be read as Parquet"):
        look_at(str(tmp_path / "rows.parquet"))
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n1,2,3\n")
    with pytest.raises(DataError, match=r"rows\.csv: cannot be read as CSV.*Expected 2 columns"):
        look_at(str(tmp_path / "rows.csv"))


def test_a_part_that_kills_each_process_ends_the_prediction(scorer):
    for _ in range(TRIES):
        scorer.begin_again("_parts/key/000001.json", "run-1")
    with pytest.raises(ClusterUnavailable, match="for want of memory"):
        scorer.begin_again("_parts/key/000001.json", "run-1")
    scorer.begin_again("_parts/key/000001.json", "run-2")
    scorer.begin_again("_parts/key/000002.json", "run-1")
