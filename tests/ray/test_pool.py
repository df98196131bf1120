"""Several models in one pool on a real cluster: one deployment, one monitor, one controller."""

import json
import random
import threading
from pathlib import Path

import grpc
import httpx
import pytest
from click.testing import CliRunner
from ray import serve

from hapredict.cli import cli
from hapredict.control.ray_retrain import cancel
from hapredict.control.ray_status import status_of
from hapredict.control.runs import request_retrain
from hapredict.control.specs import store_url, write_spec
from hapredict.errors import SpecError
from hapredict.registry import catalog
from hapredict.registry.catalog import Catalog
from hapredict.registry.store import open_store
from hapredict.serving.ray_serve import replica_states
from tests.support.bundles import change, publish_linear, rows_as_json, spec_of
from tests.support.clusters import eventually, post, publish_people, serve_model
from tests.support.grpc_calls import predictions_in, request_of, stub
from tests.support.load import Load
from tests.support.people import people, sent, small_spec, write
from tests.support.pools import add_model, copy_model
from tests.support.sinks import Sink

pytestmark = pytest.mark.timeout(400)

POOL = "small_ones"
SETTINGS = {"pool": POOL, "min_replicas": 1, "pool_memory_mb": 16}
ROWS = people(600, seed=5)
COPIES = 60
"""Of some 400 kB each: about twice of what the pool may keep."""


def ready_made(store, name, home, *, alerts=(), **serving):
    """A model that was published and applied already, as far as the store knows: no training."""
    serving = {"num_cpus": 0.5, "min_replicas": 1, **serving}
    spec = spec_of(name, serving=serving, alerts={"sinks": list(alerts)})
    if not Catalog(store, name).latest():
        publish_linear(store, name, spec=spec)
        write_spec(store, spec)
    return serve_model(spec, home)


@pytest.fixture(scope="module")
def pooled(cluster):
    """Two models with a pool: what they are was published without a training."""
    home = Path(cluster.home)
    source = write(home / "data" / "pooled.csv", ROWS)
    spec = small_spec("one", source, serving={**SETTINGS, "threshold": 1.0})
    publish_people(spec, home)
    write_spec(open_store(store_url(spec, home)), spec)
    one = serve_model(spec, home)
    return one, ready_made(one.store, "two", home, pool=POOL, threshold=0.0)


def rows_for(model, rows=5):
    """Rows that the model takes."""
    if model.name == "one":
        return [sent(row) for row in people(rows, seed=6)]
    return rows_as_json(rows)


def predicted(model, rows):
    answer = post(model.predict_url, {"instances": rows})
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def test_both_answer_over_http_grpc_and_handles(pooled, cluster):
    handle = serve.get_app_handle(POOL)
    with grpc.insecure_channel(cluster.grpc_address) as channel:
        infer = stub(channel, "ModelInfer")
        for model in pooled:
            rows = rows_for(model)
            message = request_of(
                {name: [row[name] for row in rows] for name in rows[0]}, model.name
            )

            def by_grpc(message=message):
                return infer(message, metadata=[("application", POOL)], timeout=20)

            by_http = predicted(model, rows)
            by_handle = handle.predict.remote(rows, model=model.name).result(timeout_s=30)
            for way in (by_handle, predictions_in(eventually(by_grpc, during=grpc.RpcError))):
                assert [row["score"] for row in way] == [row["score"] for row in by_http]
            labels = [
                {"prediction_id": row["prediction_id"], "label": row["decision"]} for row in by_http
            ]
            assert post(model.feedback_url, {"labels": labels}).json() == {
                "acknowledged": len(rows)
            }
    assert replica_states(POOL).get("RUNNING") == 1


def test_commands_find_a_pooled_model(pooled):
    given = json.dumps(rows_for(pooled[1], 2))
    arguments = ["--home", str(pooled[1].home), "predict", "two"]
    answered = CliRunner().invoke(cli, arguments, input=given)
    assert answered.exit_code == 0, answered.output
    assert len(json.loads(answered.output)["predictions"]) == 2


def test_each_keeps_its_own_settings(pooled):
    one, two = (
        {row["decision"] for row in predicted(model, rows_for(model, 50))} for model in pooled
    )
    assert len(one) == len(two) == 1  # by thresholds of 1 and of 0
    assert two == {"yes"}
    assert one != two


def test_one_monitor_follows_both_and_one_controller_leads_both(pooled):
    for model in pooled:
        predicted(model, rows_for(model, 3))
        eventually(lambda model=model: model.report().rows >= 3)
    first, second = (model.controller() for model in pooled)
    assert first["pid"] == second["pid"]
    for model in pooled:
        eventually(lambda model=model: model.controller()["term"] >= 1)


def test_status_and_retraining_are_as_for_a_model_alone(pooled):
    model = pooled[0]
    found = status_of(model.home, "one")
    assert found["url"].endswith(f"/{POOL}/one")
    assert (found["pool"], found["replicas"]) == (POOL, {"RUNNING": 1})
    assert found["control"]["term"] >= 1
    assert found["monitor"]["rows"] >= 3
    request_retrain(model.store, "one", "a test")
    eventually(lambda: model.state.training)
    cancel(model.store, "one", "a test")
    eventually(lambda: not model.state.training)
    assert any(entry.action == "Train" for entry in model.catalog.entries())


def test_a_pooled_model_tells_its_alerts(pooled):
    with Sink() as sink:
        alerts = [{"webhook": sink.url}]
        model = ready_made(pooled[0].store, "telling", pooled[0].home, pool=POOL, alerts=alerts)
        eventually(lambda: "waiting" in model.controller()["alerts"])
        change(model.store, catalog.pause, "by hand", model=model.name)
        eventually(lambda: sink.requests)
    assert [(one["labels"]["model"], one["state"]) for one in sink.alerts] == [
        (model.name, "firing")
    ]
    assert model.controller()["housekeeping"] == "well"


def test_a_promotion_reaches_a_pooled_model(pooled):
    model = pooled[0]
    store, name = model.store, "promoted"
    add_model(store, name, pool=POOL, spec=spec_of(name, serving={"pool": POOL}))
    publish_linear(store, name, weights={"distance": 3.0})
    url = model.url.rpartition("/")[0] + f"/{name}/v1/models/{name}:predict"

    def version():
        answer = post(url, {"instances": rows_as_json(1)})
        assert answer.status_code == 200, answer.text
        return answer.json()["model_version"]

    eventually(version, during=AssertionError)  # a second, until its name is known
    assert version() == 1
    change(store, catalog.shadow, 2, 10.0, model=name)
    change(store, catalog.promote, 20.0, model=name)
    eventually(version, lambda number: number == 2)


def test_more_models_than_fit_are_answered_without_a_failure(pooled):
    store = pooled[0].store
    root = pooled[0].url.rpartition("/")[0]
    add_model(store, "copied", pool=POOL, spec=spec_of("copied", serving={"pool": POOL}))
    names = [f"copy_{number}" for number in range(COPIES)]
    for name in names:
        copy_model(store, "copied", name, spec=spec_of(name, serving={"pool": POOL}), pool=POOL)
    body, faults, answered = {"instances": rows_as_json(1)}, [], []

    def ask(seed):
        chance = random.Random(seed)
        with httpx.Client(trust_env=False, timeout=30) as client:
            for name in chance.sample(names, COPIES):
                answer = client.post(f"{root}/v1/models/{name}:predict", json=body)
                if answer.status_code != 200 or answer.json()["model_name"] != name:
                    faults.append((name, answer.status_code, answer.text))
                answered.append(name)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(answered) == 4 * COPIES
    told = serve.get_app_handle(POOL).detail.remote().result(timeout_s=30)
    assert told["evictions"] > 0
    assert told["memory_bytes"] <= told["memory_bytes_max"]
    unknown = post(f"{root}/v1/models/nobody:predict", body)
    assert unknown.status_code == 404
    assert "copied" in unknown.json()["error"]


def test_what_two_models_say_of_their_pool_must_not_differ(pooled, cluster):
    source = Path(cluster.home) / "data" / "pooled.csv"
    spec = small_spec("three", source, serving={"pool": POOL, "num_cpus": 2})
    with pytest.raises(SpecError, match=r"serving.num_cpus.* 'three'.* 'one'"):
        serve_model(spec, Path(cluster.home))


def test_moving_into_a_pool_and_out_of_it_fails_no_request(pooled, cluster):
    home, store, body = Path(cluster.home), pooled[0].store, {"instances": rows_as_json(1)}
    alone = ready_made(store, "moving", home)
    with Load(alone.predict_url, body, callers=2) as old:
        inside = ready_made(store, "moving", home, pool=POOL)
        assert inside.url.endswith(f"/{POOL}/moving")
        with Load(inside.predict_url, body, callers=2) as new:
            new.more(50)
            old.more(50)
            eventually(lambda: inside.controller()["term"] >= 1)
            ready_made(store, "moving", home)
            new.more(50)
            old.more(50)
    assert old.faults == new.faults == []
    ended = CliRunner().invoke(cli, ["--home", str(home), "retire", "moving"])
    assert ended.output == f"ended: /{POOL}/moving\n"
    eventually(lambda: post(inside.predict_url, body).status_code, lambda status: status == 404)
    assert post(alone.predict_url, body).status_code == 200
