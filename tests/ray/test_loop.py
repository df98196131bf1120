"""What a user of a running model meets: HTTP, the Python handle, the client, the command line."""

import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import ray
from ray import serve

from hapredict.client import Client
from hapredict.monitoring.ray_monitor import find_monitor
from tests.support.clusters import Served, eventually, post, serve_model
from tests.support.people import people, sent

pytestmark = pytest.mark.timeout(400)  # the first one waits for the cluster and for a training

ROWS = people(8, seed=1)
HAPREDICT = Path(sys.executable).parent / "hapredict"
FOREIGN = ("libtensorflow", "/tensorflow/", "/keras/", "/jaxlib/")
"""What the memory map of a serving process must not name. (Ray Serve itself imports pandas.)"""


def hapredict(model: Served, *words: str) -> str:
    """Run a command as a user would; what it prints."""
    ended = subprocess.run(
        [HAPREDICT, "--home", model.home, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def detail(model):
    return serve.get_app_handle(model.name).detail.remote().result(timeout_s=30)


def settled_report(model):
    """What the monitor knows once nothing new comes in."""

    def twice():
        # a monitor looks ever less at sources that have been quiet, unless it is woken
        ray.get(find_monitor(model.name).folded.remote({}), timeout=30)
        before = model.report()
        time.sleep(5 * model.spec.monitoring.report_s)
        return before, model.report()

    return eventually(twice, lambda seen: seen[0] == seen[1])[0]


def test_the_data_plane_is_the_one_that_the_spec_asks_for(model):
    assert model.spec.serving.data_plane == "fast"
    assert detail(model)["data_plane"] == "fast"


def test_applying_again_changes_nothing(model):
    state, pids = model.state, model.pids()
    assert len(pids) == 2
    entries = model.catalog.entries()
    again = serve_model(model.spec, model.home)
    assert (again.url, again.state, again.pids()) == (model.url, state, pids)
    assert model.catalog.entries() == entries


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/livez", '"live":true'),
        ("/readyz", '"ready":true'),
        ("/v2/health/ready", '"ready":true'),
        ("/openapi.json", "性别"),
        ("/metrics", "hapredict_"),
        ("/docs", "<html"),
        ("/v1/models/orders", "收入"),
        ("/v2/models/orders", "收入"),
    ],
)
def test_what_is_said_about_the_model_comes_through_the_ingress(model, path, text):
    answer = httpx.get(model.url + path, trust_env=False)
    assert answer.status_code == 200
    assert text in answer.text


def test_an_answer_says_who_scored_what_and_how_it_is_decided(model):
    answer = post(model.predict_url, {"instances": [sent(row) for row in ROWS]}).json()
    version = model.state.champion
    assert answer["model_name"] == model.name
    assert answer["model_version"] == version
    for one in answer["predictions"]:
        assert set(one) == {"prediction_id", "score", "decision", "model_version", "served_by"}
        assert one["decision"] == ("1" if one["score"] >= 0.5 else "0")
        assert (one["model_version"], one["served_by"]) == (version, "champion")
    assert len({one["prediction_id"] for one in answer["predictions"]}) == len(ROWS)


def test_rows_columns_tensors_handle_and_client_give_the_same_scores(model):
    rows = [sent(row) for row in ROWS]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    by_rows = [one["score"] for one in model.predict(ROWS)]
    by_columns = post(model.predict_url, {"inputs": columns}).json()["predictions"]
    assert [one["score"] for one in by_columns] == by_rows
    numbers = {"收入": "FP64", "age": "FP64"}
    tensors = [
        {"name": name, "datatype": numbers.get(name, "BYTES"), "shape": [len(rows)], "data": values}
        for name, values in columns.items()
    ]
    v2 = post(f"{model.url}/v2/models/{model.name}/infer", {"inputs": tensors}).json()
    assert {one["name"]: one["data"] for one in v2["outputs"]}["score"] == pytest.approx(by_rows)
    handle = serve.get_app_handle(model.name)
    by_handle = handle.predict.remote(rows).result(timeout_s=30)
    assert [one["score"] for one in by_handle] == by_rows
    with Client(model.url, model.name) as client:
        assert client.ready()
        assert client.model().version == model.state.champion
        by_client = client.predict(rows)
        assert [one.score for one in by_client] == by_rows
        label = {"prediction_id": by_client[0].prediction_id, "label": ROWS[0]["bad"]}
        assert client.feedback([label]) == 1


def test_a_unicode_column_reaches_the_model(model):
    def score(**changes):
        return model.predict([{**ROWS[0], **changes}])[0]["score"]

    assert score(收入=500.0) > 0.6
    assert score(收入=9500.0) < 0.4
    assert score(收入=None) != score(收入=500.0)
    assert score(性别="不明") == score(性别="something else")  # both were never seen


def test_no_serving_process_has_loaded_tensorflow(model):
    pids = model.pids()
    assert detail(model)["pid"] in pids
    for pid in pids:
        loaded = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
        assert "onnxruntime" in loaded
        assert [name for name in FOREIGN if name in loaded] == []


def test_labels_are_joined_with_the_predictions_that_they_are_about(model):
    before = settled_report(model)
    rows = people(50, seed=2)
    predictions = model.predict(rows)
    assert model.feedback(predictions, rows) == 50
    assert model.feedback(predictions[:10], rows[:10]) == 10  # again: they count once
    eventually(
        model.report,
        lambda seen: (
            seen.labels_joined >= before.labels_joined + 50
            and seen.labels_repeated >= before.labels_repeated + 10
        ),
    )
    after = settled_report(model)
    assert after.rows == before.rows + 50
    assert after.labels_joined == before.labels_joined + 50
    assert after.labels_repeated == before.labels_repeated + 10


def test_status_and_history_tell_programs_what_they_tell_people(model):
    status = json.loads(hapredict(model, "status", model.name, "-o", "json"))
    assert status["url"] == model.url
    assert status["catalog"]["champion"] == model.state.champion
    assert status["replicas"] == {"RUNNING": 2}
    assert status["control"]["term"] >= 1
    assert status["monitor"]["trouble"] == ""
    history = json.loads(hapredict(model, "history", model.name, "-o", "json"))
    assert [one["sequence"] for one in history] == list(range(1, len(history) + 1))
    assert [one["action"] for one in history][:3] == ["TakeOver", "Train", "Install"]
    assert all(one["reason"] for one in history)
    text = hapredict(model, "history", model.name)
    assert "first model" in text


def answered_by(model):
    """The versions that answer now, asked often enough to meet every replica."""
    return {model.predict(ROWS[:1])[0]["model_version"] for _ in range(20)}


def test_what_the_command_line_decides_is_served_within_seconds(model):
    champion, pids = model.state.champion, model.pids()
    hapredict(model, "retrain", model.name, "--reason", "a test wants it")
    eventually(lambda: model.state.stage, lambda stage: stage == "shadow", wait_s=180)
    challenger = model.state.challenger
    hapredict(model, "pause", model.name, "--reason", "a test decides")
    assert "would change" in hapredict(model, "promote", model.name, "--dry-run")
    assert model.state.champion == champion
    assert answered_by(model) == {champion}
    hapredict(model, "promote", model.name)
    assert (model.state.champion, model.state.previous) == (challenger, champion)
    eventually(lambda: answered_by(model), lambda versions: versions == {challenger}, wait_s=10)
    pinned = f"{model.url}/v1/models/{model.name}/versions/{champion}:predict"
    answer = post(pinned, {"instances": [sent(ROWS[0])]}).json()["predictions"][0]
    assert (answer["model_version"], answer["served_by"]) == (champion, "pinned")
    hapredict(model, "rollback", model.name, "--reason", "a test is over")
    eventually(lambda: answered_by(model), lambda versions: versions == {champion}, wait_s=10)
    assert "a test is over" in model.state.frozen
    hapredict(model, "resume", model.name)
    assert (model.state.paused, model.state.frozen, model.state.stage) == ("", "", "steady")
    assert model.pids() == pids  # no process was restarted for any of it


def test_the_client_can_be_told_from_the_command_line(model, tmp_path):
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([sent(row) for row in ROWS[:2]]), encoding="utf-8")
    answer = json.loads(hapredict(model, "predict", model.name, "--rows", str(rows)))
    labels = tmp_path / "labels.json"
    labels.write_text(
        json.dumps(
            [{"prediction_id": one["prediction_id"], "label": 1} for one in answer["predictions"]]
        )
    )
    said = hapredict(model, "feedback", model.name, "--labels", str(labels))
    assert said == "2 labels acknowledged\n"


def test_a_job_on_the_cluster_can_ask_by_handle(model):
    @ray.remote(num_cpus=0)
    def ask(name, row):
        return serve.get_app_handle(name).predict.remote([row]).result(timeout_s=30)

    answer = ray.get(ask.remote(model.name, sent(ROWS[0])), timeout=120)
    assert answer[0]["score"] == model.predict(ROWS[:1])[0]["score"]
