"""The app in front of a real replica, over a store in memory: versions, canary, journal."""

import asyncio
import itertools

import pytest

from hapredict.registry import catalog
from hapredict.registry.store import open_store
from hapredict.serving import journal
from hapredict.serving.asgi import App
from hapredict.serving.replica import Replica
from tests.support.bundles import (
    MODEL,
    START_S,
    change,
    publish_linear,
    rows_as_json,
    schema_of,
    spec_of,
)
from tests.support.serving import Clock, ask, together

PREDICT = f"/v1/models/{MODEL}:predict"
_names = itertools.count()


@pytest.fixture
def store():
    return open_store(f"memory://asgi-{next(_names)}")


@pytest.fixture
def replica(store, tmp_path):
    return Replica(store, MODEL, "r1", tmp_path, Clock(START_S))


@pytest.fixture
def app(replica):
    return App(replica, clock=Clock(START_S))


def _ask(app, *args, **options):
    return asyncio.run(ask(app, *args, **options))


def _parts(store):
    prefix = journal.predictions_prefix(MODEL)
    return [
        journal.decode(store.get(path), schema_of())
        for _, _, path in journal.unread(store, prefix, {})
    ]


def test_an_app_is_ready_once_a_champion_is_loaded(app, replica, store):
    got = _ask(app, "GET", "/readyz")
    assert got.status == 503
    assert got.json["reasons"]
    assert _ask(app, "POST", PREDICT, {"instances": rows_as_json(1)}).status == 503
    publish_linear(store)
    replica.refresh()
    got = _ask(app, "GET", "/readyz")
    assert (got.status, got.json["champion"]) == (200, 1)
    assert _ask(app, "POST", PREDICT, {"instances": rows_as_json(1)}).status == 200


def test_requests_answered_together_get_what_they_would_get_alone(app, replica, store):
    publish_linear(store)
    replica.refresh()
    requests = [rows_as_json(rows, seed=rows) for rows in (1, 4, 2)]
    got = together(*(ask(app, "POST", PREDICT, {"instances": rows}) for rows in requests))
    for rows, each in zip(requests, got, strict=True):
        alone = _ask(app, "POST", PREDICT, {"instances": rows}).json["predictions"]
        scores = [row["score"] for row in each.json["predictions"]]
        assert scores == pytest.approx([row["score"] for row in alone], abs=1e-6)


def test_every_answer_is_in_the_journal_after_the_end(app, replica, store):
    publish_linear(store)
    replica.refresh()
    got = together(
        *(ask(app, "POST", PREDICT, {"instances": rows_as_json(3, seed=s)}) for s in range(4))
    )
    by_handle = asyncio.run(app.predict_rows(rows_as_json(2)))
    asyncio.run(app.close())
    given = [row["prediction_id"] for each in got for row in each.json["predictions"]]
    given += [row["prediction_id"] for row in by_handle]
    recorded = [name for part in _parts(store) for name in part.ids]
    assert sorted(recorded) == sorted(given)
    assert len(set(given)) == 14


def test_rows_that_do_not_fit_are_counted_in_the_journal_by_the_column_at_fault(
    app, replica, store
):
    publish_linear(store)
    replica.refresh()
    good, *others = rows_as_json(4)
    wrong = [{**others[0], "distance": "far"}, others[1]]
    lacking = [{name: value for name, value in others[2].items() if name != "carrier"}]
    strange = [{**good, "nobody knows this": 1}]
    statuses = [
        _ask(app, "POST", PREDICT, {"instances": rows}).status
        for rows in ([good], wrong, lacking, strange, [{**good, "odd": 2}])
    ]
    assert statuses[0] == 200
    assert set(statuses[1:]) <= {400, 422}
    replica.report()
    (part,) = _parts(store)
    assert part.rows == 1
    assert part.refused == {"distance": 2, "carrier": 1, "unknown fields": 2}


def test_a_canary_answers_its_share_and_says_so(app, replica, store):
    publish_linear(store)
    publish_linear(store, weights={"distance": 3.0})
    change(store, catalog.shadow, 2, 10.0)
    change(store, catalog.share, 0.5, 20.0)
    replica.refresh()
    got = _ask(app, "POST", PREDICT, {"instances": rows_as_json(60)})
    rows = got.json["predictions"]
    assert {row["served_by"] for row in rows} == {"champion", "challenger"}
    assert {row["model_version"] for row in rows} == {1, 2}
    assert got.headers["x-model-version"] == "1,2"
    pinned = _ask(
        app, "POST", f"/v1/models/{MODEL}/versions/2:predict", {"instances": rows_as_json(60)}
    )
    assert {row["served_by"] for row in pinned.json["predictions"]} == {"pinned"}
    for row, other in zip(rows, pinned.json["predictions"], strict=True):
        if row["model_version"] == 2:
            assert row["score"] == pytest.approx(other["score"], abs=1e-6)
    assert _ask(app, "GET", f"/v2/models/{MODEL}/versions/2").json["versions"] == ["1", "2"]
    assert _ask(app, "GET", f"/v2/models/{MODEL}/versions/3").status == 404


def test_metadata_of_a_version_are_its_own(store, replica, app):
    publish_linear(store, schema=schema_of(("a", "b", "c"), "multiclass"))
    publish_linear(store, schema=schema_of(("a", "b", "c", "d"), "multiclass"))
    change(store, catalog.shadow, 2, 10.0)
    replica.refresh()
    for version, classes in (("", 3), ("/versions/1", 3), ("/versions/2", 4)):
        told = _ask(app, "GET", f"/v2/models/{MODEL}{version}").json
        assert told["versions"] == ["1", "2"]
        score = told["outputs"][0]
        assert (score["shape"], len(score["parameters"]["classes"])) == ([-1, classes], classes)


def test_the_status_of_versions_is_that_of_tensorflow_serving(store, replica, app):
    publish_linear(store)
    publish_linear(store, weights={"distance": 3.0})
    change(store, catalog.shadow, 2, 10.0)
    replica.refresh()
    ok = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    both = _ask(app, "GET", f"/v1/models/{MODEL}").json["model_version_status"]
    assert both == [{"version": "1", **ok}, {"version": "2", **ok}]
    one = _ask(app, "GET", f"/v1/models/{MODEL}/versions/2").json
    assert one["model_version_status"] == [{"version": "2", **ok}]
    missing = _ask(app, "GET", f"/v1/models/{MODEL}/versions/7")
    assert missing.status == 404
    assert "known: 1, 2" in missing.json["error"]
    assert _ask(app, "GET", "/v1/models").json == {"models": [MODEL]}
    assert _ask(app, "GET", "/v2").json["extensions"] == ["binary_tensor_data"]


def test_a_time_that_the_clock_runs_on_is_no_optional_tensor(store, tmp_path):
    publish_linear(store, spec=spec_of(monitoring={"clock": "event"}))
    replica = Replica(store, MODEL, "r1", tmp_path, Clock(START_S))
    replica.refresh()
    told = _ask(App(replica, clock=Clock(START_S)), "GET", f"/v2/models/{MODEL}").json["inputs"]
    optional = {tensor["name"] for tensor in told if "parameters" in tensor}
    assert optional == {"order"}


def test_labels_are_in_the_journal_when_they_are_acknowledged(app, replica, store):
    publish_linear(store)
    replica.refresh()
    answer = _ask(app, "POST", PREDICT, {"instances": rows_as_json(1)}).json
    id_ = answer["predictions"][0]["prediction_id"]
    label = {"prediction_id": id_, "label": "yes"}
    got = _ask(app, "POST", f"/v1/models/{MODEL}:feedback", label)
    assert got.json == {"acknowledged": 1}
    assert len(journal.unread(store, journal.labels_prefix(MODEL), {})) == 1
    wrong = _ask(app, "POST", f"/v1/models/{MODEL}:feedback", {**label, "label": "maybe"})
    assert wrong.status == 422
    assert "one of 'no', 'yes'" in wrong.json["error"]
    assert len(journal.unread(store, journal.labels_prefix(MODEL), {})) == 1


def test_on_the_event_clock_rows_without_a_time_are_refused(store, tmp_path):
    spec = spec_of(monitoring={"clock": "event"})
    publish_linear(store, spec=spec)
    replica = Replica(store, MODEL, "r1", tmp_path, Clock(START_S))
    replica.refresh()
    app = App(replica, clock=Clock(START_S))
    got = _ask(app, "POST", PREDICT, {"instances": rows_as_json(1, extras=False)})
    assert got.status == 422
    assert [field["field"] for field in got.json["fields"]] == ["at"]
    assert _ask(app, "POST", PREDICT, {"instances": rows_as_json(1)}).status == 200


@pytest.mark.parametrize(
    "value", [1e308, -1e308, 10**400, 5e-324, "x" * 1001, "\x00", True, [], {}, 1e-320]
)
@pytest.mark.parametrize("name", ["distance", "carrier", "at", "order"])
def test_no_value_of_a_row_is_a_fault_of_ours(app, replica, store, name, value):
    publish_linear(store)
    replica.refresh()
    row = {**rows_as_json(1)[0], name: value}
    got = _ask(app, "POST", PREDICT, {"instances": [row]})
    assert got.status in (200, 400, 422), got.json
    asyncio.run(app.close())
    assert len([name for part in _parts(store) for name in part.ids]) == (got.status == 200)
