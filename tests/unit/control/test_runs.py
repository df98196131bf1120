"""A run's request is written once, its record follows it, and both read back as they were."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.control import runs
from hapredict.control.runs import Record, Request
from hapredict.errors import CorruptBundle, NotFound
from hapredict.registry.catalog import Version
from hapredict.registry.store import decode_json, open_store
from hapredict.training.metrics import Verdict

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
COUNT = st.integers(0, 10**6)
NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True)

POSITIONS = st.dictionaries(
    st.sampled_from(["predictions", "labels"]), st.dictionaries(NAMES, COUNT, max_size=2)
)
REQUESTS = st.builds(
    Request,
    model=st.just("orders"),
    run=NAMES,
    trigger=TEXT,
    spec=COUNT,
    champion=st.none() | COUNT,
    positions=POSITIONS,
    event_s=st.none() | FINITE,
)
VERSIONS = st.builds(
    Version, COUNT, TEXT, NAMES, FINITE, FINITE, st.dictionaries(TEXT, FINITE, max_size=2)
)
VERDICTS = st.builds(
    Verdict, st.sampled_from(["pass", "fail", "not enough data"]), TEXT, st.none() | COUNT
)
RECORDS = st.builds(
    Record,
    run=NAMES,
    state=st.sampled_from(["running", "finished", "failed"]),
    detail=TEXT,
    epoch=COUNT,
    epochs=COUNT,
    validation_loss=st.none() | FINITE,
    restarts=COUNT,
    pids=st.lists(COUNT, max_size=3).map(tuple),
    rows=TEXT,
    retry=st.booleans(),
    attempts=COUNT,
    version=st.none() | VERSIONS,
    verdict=st.none() | VERDICTS,
    seconds=st.dictionaries(TEXT, FINITE, max_size=2),
)


@pytest.fixture
def store(request):
    return open_store(f"memory://{request.node.name}")


@given(REQUESTS, REQUESTS)
def test_the_first_request_of_a_run_counts(one, two):
    store = open_store("memory://runs-requests")
    for path in store.list("runs"):
        store.delete(path)
    again = replace(two, run=one.run)
    runs.ask(store, one)
    runs.ask(store, again)
    assert runs.asked(store, "orders", one.run) == one


@given(RECORDS, RECORDS)
def test_the_last_record_of_a_run_counts(one, two):
    store = open_store("memory://runs-records")
    last = replace(two, run=one.run)
    runs.note(store, "orders", one)
    assert runs.noted(store, "orders", one.run) == one
    runs.note(store, "orders", last)
    assert runs.noted(store, "orders", one.run) == last


@given(RECORDS)
def test_control_sees_how_a_run_ended(record):
    status = record.status()
    assert (status.run, status.state, status.reason) == (record.run, record.state, record.detail)
    assert (status.version, status.verdict) == (record.version, record.verdict)
    assert status.retry == record.retry


def test_a_run_that_nobody_asked_for_has_no_request_and_no_record(store):
    assert runs.noted(store, "orders", "run-1") is None
    with pytest.raises(NotFound):
        runs.asked(store, "orders", "run-1")


def test_runs_of_two_models_are_kept_apart(store):
    runs.note(store, "orders", Record("run-1", "running", detail="reading"))
    assert runs.noted(store, "routes", "run-1") is None


def test_a_record_that_is_no_json_says_where_it_is(store):
    store.put("runs/orders/run-1/record.json", b"{")
    with pytest.raises(CorruptBundle, match=r"runs/orders/run-1/record\.json"):
        runs.noted(store, "orders", "run-1")


def test_a_wish_to_retrain_waits_with_its_reason(store):
    runs.request_retrain(store, "orders", "new prices")
    runs.request_retrain(store, "orders", "价格变了")
    path = runs.retrain_path("orders")
    assert decode_json(store.get(path), path) == {"reason": "价格变了"}
