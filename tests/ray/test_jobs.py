"""The scripts in `jobs/`, submitted as people submit them: from a copy of the working directory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from hapredict.control import ray_job, ray_retrain, runs
from hapredict.control.specs import home_store, read_spec
from hapredict.errors import Conflict, DataError, GateRefused, NotFound, SpecError, UnknownName
from hapredict.registry.catalog import Version
from hapredict.serving.batch_plan import SUMMARY
from hapredict.serving.ray_batch import Asked, predict_files
from hapredict.training.metrics import Verdict
from tests.support.clusters import retired
from tests.support.people import FIELDS, people, sent, small_spec, write

ROOT = Path(__file__).parents[2]
MODEL = "by_job"
JOB_S = 200


def submit(cluster, folder, *entrypoint):
    """`ray job submit` with `folder` as working directory: whether it succeeded, and its log."""
    ray = Path(sys.executable).parent / "ray"
    ended = subprocess.run(
        [ray, "job", "submit", "--working-dir", str(folder), "--", "python", *entrypoint],
        env={**os.environ, "RAY_API_SERVER_ADDRESS": cluster.dashboard_url, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=JOB_S,
        check=False,
    )
    return ended.returncode == 0, ended.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory: the jobs as they are, and specs."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "jobs").symlink_to(ROOT / "jobs")
    raw = small_spec(MODEL, "data/by_job.csv").model_dump(mode="json", exclude_unset=True)
    (folder / "spec.yaml").write_text(yaml.safe_dump(raw, allow_unicode=True), encoding="utf-8")
    raw["data"]["target"] = "worse"
    (folder / "bad.yaml").write_text(yaml.safe_dump(raw, allow_unicode=True), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def applied(cluster, folder):
    """The log of a job that applied a spec; the data lie in the home, not in the copy."""
    write(Path(cluster.home) / "data" / "by_job.csv", people(1500, seed=5))
    with retired(MODEL):
        succeeded, log = submit(cluster, folder, "jobs/apply.py", "spec.yaml")
        assert succeeded, log
        yield log


@pytest.fixture(scope="module")
def store(cluster, applied):
    return home_store(Path(cluster.home), MODEL)


def ask(cluster, rows):
    """What the model answers over HTTP."""
    from hapredict.control.ray_embedded import find

    url = f"{find(Path(cluster.home)).serve_url}/{MODEL}/v1/models/{MODEL}:predict"
    answer = httpx.post(url, json={"instances": [sent(row) for row in rows]}, timeout=30)
    assert answer.status_code == httpx.codes.OK, answer.text
    return answer.json()["predictions"]


def test_a_job_applies_a_spec_and_tells_its_progress_in_plain_lines(cluster, applied):
    told = applied.splitlines()
    assert "champion: 1" in told
    assert "  v1 is champion" in told
    assert "\x1b" not in applied.partition("Running entrypoint")[2].partition("stage")[0]
    assert len(ask(cluster, people(3, seed=8))) == 3


def test_nothing_that_a_job_starts_needs_the_jobs_copy_of_the_working_directory(cluster, applied):
    from ray.util.state import list_actors

    where = cluster.dashboard_url
    actors = list_actors(where, detail=True, filters=[("state", "=", "ALIVE")], limit=1000)
    ours = [actor for actor in actors if MODEL in (actor.name or "")]
    assert len(ours) >= 5  # controller, learner, monitor and two replicas
    assert not [actor.name for actor in ours if "working_dir" in str(actor.serialized_runtime_env)]


def test_a_job_with_data_that_cannot_be_learned_from_fails_with_a_sentence(
    cluster, folder, applied
):
    succeeded, log = submit(cluster, folder, "jobs/apply.py", "bad.yaml")
    assert not succeeded
    assert "worse" in log
    assert "exit code 1" in log
    assert "Traceback" not in log


def test_a_batch_job_answers_as_the_service_does(cluster, folder, store):
    rows = people(300, seed=6)
    write(Path(cluster.home) / "data" / "batch.csv", rows)
    entry = ("jobs/batch_predict.py", MODEL, "data/batch.csv", "out/by_job", "-o", "json")
    succeeded, log = submit(cluster, folder, *entry)
    assert succeeded, log
    assert "1 of 1 parts, 300 rows" in log
    output = Path(cluster.home) / "out" / "by_job"
    table = pq.read_table(output).to_pydict()
    assert list(table) == ["order", "time", "score", "decision", "model_version"]
    live = ask(cluster, rows)
    assert table["order"] == [row["order"] for row in rows]
    assert table["decision"] == [answer["decision"] for answer in live]
    assert table["model_version"] == [answer["model_version"] for answer in live]
    np.testing.assert_allclose(table["score"], [a["score"] for a in live], atol=1e-6)
    summary = json.loads((output / SUMMARY).read_text())
    assert (summary["complete"], summary["rows"], summary["unreadable"]) == (True, 300, 0)
    assert summary["rows_per_s"] > 0
    told = next(json.loads(line) for line in log.splitlines() if line.startswith("{"))
    assert told == {**summary, "output": str(output)}


@pytest.fixture
def batch(cluster, store, tmp_path):
    """Predicts the rows of a frame, as Parquet; the output's table and what came of it."""

    def go(frame, output="out", **more):
        frame.to_parquet(tmp_path / "rows.parquet")
        spec = read_spec(store, MODEL)
        done = predict_files(store, spec, Asked("rows.parquet", output, **more), tmp_path)
        return pq.read_table(tmp_path / output).to_pandas(), done

    return go


def frame(rows=40):
    return pd.DataFrame(people(rows, seed=7))[list(FIELDS)]


def test_rows_that_cannot_be_read_are_answered_as_missing_and_counted(cluster, batch):
    broken = frame().astype({"收入": object})
    broken["收入"] = [str(value) for value in broken["收入"]]
    broken.loc[3, "收入"] = "a lot"
    table, done = batch(broken)
    assert (done.rows, done.unreadable) == (40, 1)
    assert "1 of them have unreadable values" in done.sentence()
    missing = people(40, seed=7)[3] | {"收入": None}
    assert table["score"][3] == pytest.approx(ask(cluster, [missing])[0]["score"], abs=1e-6)


def test_rows_without_id_and_time_are_answered_too(batch):
    table, _ = batch(frame().drop(columns=["order", "time"]), keep=("age",))
    assert list(table) == ["age", "score", "decision", "model_version"]
    assert len(table) == 40


def test_a_feature_that_is_not_there_is_named(batch):
    with pytest.raises(DataError, match="收入"):
        batch(frame().drop(columns="收入"))
    with pytest.raises(DataError, match=r"sighs: no such column.*kept"):
        batch(frame(), keep=("sighs",))


def test_an_output_is_not_overwritten_unless_it_is_asked_for(batch, tmp_path):
    batch(frame(40))
    with pytest.raises(Conflict, match="something else: its input was 1 files"):
        batch(frame(20))
    table, _ = batch(frame(20), overwrite=True)
    assert len(table) == 20
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "rows.parquet").touch()
    with pytest.raises(Conflict, match="no batch prediction wrote"):
        batch(frame(20), "mine", overwrite=True)


def test_an_output_in_the_folder_of_the_input_is_no_input(store, tmp_path):
    (tmp_path / "data").mkdir()
    frame(40).to_parquet(tmp_path / "data" / "rows.parquet")
    spec = read_spec(store, MODEL)
    for scored in (40, 0):
        done = predict_files(store, spec, Asked("data", "data/out"), tmp_path)
        assert (done.rows, done.scored) == (40, scored)
    with pytest.raises(DataError, match="holds all files of the input"):
        predict_files(store, spec, Asked("data/out", "data/out"), tmp_path)


def test_a_version_that_was_never_published_is_unknown(batch):
    with pytest.raises(UnknownName, match="known: 1"):
        batch(frame(), version=9)


def test_a_training_on_request_ends_with_a_model_and_a_verdict(store):
    told = []
    record = ray_retrain.retrain(
        store, MODEL, "a test", lambda sentence, _: told.append(sentence), wait_s=JOB_S
    )
    assert record.state == "finished"
    assert record.version.metrics["auc"] > 0.6
    assert record.verdict.passed
    assert runs.asked(store, MODEL, record.run).trigger == "manual"
    assert any("training" in sentence for sentence in told)


def test_a_training_that_a_gate_refuses_ends_with_the_code_for_it():
    version = Version(0, "digest", "run-1", 0.0, 0.0, {"auc": 0.4})
    record = runs.Record(
        "run-1", "finished", version=version, verdict=Verdict("fail", "worse than a constant")
    )
    told = []
    with pytest.raises(GateRefused, match="worse than a constant") as refused:
        ray_retrain._judged(record, lambda sentence, _: told.append(sentence))
    assert refused.value.exit_code == 3
    assert told == ["run-1 ended: auc 0.4"]


def test_a_training_of_a_model_that_was_never_applied_is_not_found(store):
    with pytest.raises(NotFound, match="apply its spec first"):
        ray_retrain.retrain(store, "nobody", "a test", lambda *_: None, wait_s=1)


def test_on_a_cluster_without_a_home_relative_paths_are_refused(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.delenv("HAPREDICT_HOME", raising=False)
    spec = small_spec(MODEL, "data/orders.csv")
    with pytest.raises(NotFound, match=r"HAPREDICT_HOME is not set.*'store', 'data/orders.csv'"):
        ray_job.home_of(spec, *spec.data.sources)
    remote = spec.model_copy(update={"store": "s3://bucket/models"})
    assert ray_job.home_of(remote, "s3://bucket/orders/") == Path.home() / ".hapredict"
    monkeypatch.setenv("HAPREDICT_HOME", "somewhere")
    with pytest.raises(NotFound, match="which is relative"):
        ray_job.home_of(remote)


def test_a_spec_that_is_not_there_is_wrong_use(tmp_path):
    with pytest.raises(SpecError, match="cannot be read") as error:
        ray_job.spec_file(str(tmp_path / "none.yaml"))
    assert error.value.exit_code == 2


def test_progress_is_one_line_for_each_new_thing(capsys):
    record = runs.Record("run-1", "running", epochs=3, epoch=1, validation_loss=0.5)
    with ray_job.progress() as tell:
        tell("reading", None)
        tell("reading", None)
        tell("training", record)
        tell("training", record)
    assert capsys.readouterr().err.splitlines() == [
        "  reading",
        "  training, epoch 1 of 3, validation loss 0.5000",
    ]
