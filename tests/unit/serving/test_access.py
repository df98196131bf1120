"""The access log: what it says of a request, what it leaves out, and what it may cost."""

import asyncio
import json

import pytest

from hapredict.errors import TemporaryError
from hapredict.sections_live import ServingSpec
from hapredict.serving import access
from hapredict.serving.access import AccessLog
from hapredict.serving.answers import Part, Shared
from hapredict.serving.asgi import App
from tests.support.bundles import rows_as_json, schema_of
from tests.support.serving import Clock, FakeReplica, answer_of, ask

PREDICT = "/v1/models/orders:predict"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "logs" / "orders" / "access-r1.jsonl"


def log_of(file, *, errors_only=False, bytes_max=1 << 20):
    return AccessLog("orders", file, errors_only=errors_only, bytes_max=bytes_max)


def part_of(rows=3, versions=None):
    answer = answer_of(schema_of(), rows, version=7)
    if versions is not None:
        answer.versions[:] = versions
    return Part(Shared(answer, 1), 0, rows)


def lines_in(*files):
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_line_says_what_was_asked_and_how_it_went(file):
    log = log_of(file)
    log.add("/v1/models/{model}:predict", 200, 1_800_000_000.25, 0.0125, b"r-1", part_of())
    log.add("grpc", 499, 1_800_000_001.0, 1.0, "", None)
    log.write()
    assert lines_in(file) == [
        {
            "time": "2027-01-15T08:00:00.250Z",
            "model": "orders",
            "route": "/v1/models/{model}:predict",
            "status": 200,
            "ms": 12.5,
            "request_id": "r-1",
            "rows": 3,
            "version": "7",
        },
        {
            "time": "2027-01-15T08:00:01.000Z",
            "model": "orders",
            "route": "grpc",
            "status": 499,
            "ms": 1000.0,
        },
    ]


def test_all_versions_of_an_answer_are_named(file):
    log = log_of(file)
    log.add("x", 200, 0.0, 0.0, "", part_of(3, [2, 1, 2]))
    log.write()
    assert lines_in(file)[0]["version"] == "1,2"


def test_nothing_is_created_before_there_is_a_line(file):
    log = log_of(file, errors_only=True)
    log.add("x", 200, 0.0, 0.0, "", part_of())
    log.write()
    assert not file.parent.exists()
    log.add("x", 503, 0.0, 0.0, "", None)
    log.write()
    assert [line["status"] for line in lines_in(file)] == [503]


def test_two_files_hold_no_more_than_they_may(file):
    log = log_of(file, bytes_max=4000)
    for number in range(300):
        log.add("x", 200, 0.0, 0.0, f"r-{number}", None)
        log.write()
    older = file.with_name(file.name + ".1")
    assert sorted(file.parent.iterdir()) == [file, older]
    assert file.stat().st_size + older.stat().st_size <= 4000
    numbers = [int(line["request_id"][2:]) for line in lines_in(older, file)]
    assert numbers == list(range(numbers[0], 300))


def test_a_file_that_was_taken_away_is_begun_anew(file):
    log = log_of(file)
    for _ in range(2):
        log.add("x", 200, 0.0, 0.0, "", None)
        log.write()
        assert len(lines_in(file)) == 1
        file.rename(file.with_name("taken"))


def test_files_of_replicas_that_are_gone_do_not_pile_up(file, monkeypatch):
    monkeypatch.setattr(access, "FILES_MAX", 5)
    for number in range(9):
        log = log_of(file.with_name(f"access-{number}.jsonl"))
        log.add("x", 200, 0.0, 0.0, "", None)
        log.write()
    left = sorted(found.name for found in file.parent.iterdir())
    assert len(left) <= 5
    assert "access-8.jsonl" in left


def test_what_waits_too_long_is_dropped_and_counted(file, monkeypatch):
    monkeypatch.setattr(access, "LINES_MAX", 10)
    log = log_of(file)
    for _ in range(13):
        log.add("x", 200, 0.0, 0.0, "", None)
    log.write()
    assert (len(lines_in(file)), log.dropped) == (10, 3)


def test_what_the_disk_does_not_take_is_dropped_and_counted(file):
    file.parent.parent.mkdir(parents=True)
    file.parent.write_text("no folder")
    log = log_of(file)
    log.add("x", 200, 0.0, 0.0, "", None)
    with pytest.raises(OSError, match="orders"):
        log.write()
    assert log.dropped == 1
    log.write()


def test_an_app_logs_each_request_once_and_no_value(file):
    replica = FakeReplica()
    app = App(replica, clock=Clock(), access=log_of(file))

    async def talk():
        running = asyncio.create_task(app.run())
        rows = {"instances": rows_as_json(2)}
        await ask(app, "POST", PREDICT, rows, headers={"X-Request-Id": "mine"})
        await ask(app, "POST", PREDICT, {"instances": [{"secret-field": "secret-value"}]})
        await ask(app, "GET", "/secret-path")
        await app.predict_rows(rows_as_json(1))
        replica.faults["predict"] = TemporaryError("away")
        with pytest.raises(TemporaryError):
            await app.predict_rows(rows_as_json(1))
        await app.close()
        await running

    asyncio.run(talk())
    lines = lines_in(file)
    assert [(line["status"], line["route"]) for line in lines] == [
        (200, "/v1/models/{model}:predict"),
        (422, "/v1/models/{model}:predict"),
        (404, "other"),
        (200, "python"),
        (503, "python"),
    ]
    assert (lines[0]["request_id"], lines[0]["rows"], lines[0]["version"]) == ("mine", 2, "1")
    assert "secret" not in file.read_text()
    assert all(str(row["distance"]) not in file.read_text() for row in rows_as_json(2))


def test_the_dropped_lines_are_among_the_metrics(file):
    log = log_of(file)
    log.dropped = 4
    app = App(FakeReplica(), clock=Clock(), access=log)
    got = asyncio.run(ask(app, "GET", "/metrics"))
    assert b'hapredict_access_lines_dropped_total{model="orders"} 4.0' in got.body


def test_errors_are_what_is_written_unless_a_spec_says_more():
    assert ServingSpec().access_log == "errors"
