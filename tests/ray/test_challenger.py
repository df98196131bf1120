"""The whole life of a challenger on the clock of its rows, led by control and by nobody else."""

from datetime import datetime
from pathlib import Path

import pytest

from hapredict.control.ray_cluster import controller
from hapredict.drill.past import Row, plan
from hapredict.drill.ray_traffic import Traffic
from hapredict.errors import TrainingFailed
from hapredict.sections import DAY_S
from tests.support.clusters import Served, eventually, retired, serve_model
from tests.support.people import START_S, people, sent, small_spec, write

pytestmark = pytest.mark.timeout(400)  # two trainings, and a month of traffic

MODEL = "stream"
LEARNED_DAYS, CALM_DAYS, CHANGED_DAYS = 8, 2, 18
ROWS_A_DAY = 100
CONTROL = {
    "age_max_days": 1000,  # only the change can begin a training
    "cooldown_days": 2,
    "labels_min": 700,  # a training must see the change, and not only be judged by it
    "shadow_days": 1,
    "shadow_labels_min": 50,
    "canary_shares": [0.3],
    "canary_step_days": 1,
    "deadline_days": 30,
    "deadline_rule": "strict",  # on evidence only
    "watch_days": 2,
}


def spec_of(source, data=None, control=None):
    return small_spec(
        MODEL,
        source,
        data=data or {},
        training={"epochs_max": 8},
        # the other data plane, which the other models of these tests do not have
        serving={"min_replicas": 1, "max_replicas": 1, "data_plane": "standard"},
        monitoring={
            "clock": "event",
            "window_rows": 100,
            "loss_window_labels": 50,
            "false_alarm_days": 30,
        },
        control={**CONTROL, **(control or {})},
    )


def live_days():
    """Some days as before; then all incomes rise, and with them what counts as low."""
    begin_s = START_S + LEARNED_DAYS * DAY_S
    calm = people(CALM_DAYS * ROWS_A_DAY, CALM_DAYS, start_s=begin_s, seed=11)
    begin_s += CALM_DAYS * DAY_S
    changed = people(
        CHANGED_DAYS * ROWS_A_DAY, CHANGED_DAYS, start_s=begin_s, seed=12, raised=9000.0
    )
    rows = [*calm, *changed]
    return plan([Row(sent(row), row["bad"], time_of(row)) for row in rows], ())


def time_of(row):
    return datetime.fromisoformat(row["time"]).timestamp()


@pytest.fixture(scope="module")
def stream(cluster):
    """A model on the clock of its rows, whose first spec could not be learned from."""
    home = Path(cluster.home)
    rows = people(LEARNED_DAYS * ROWS_A_DAY, LEARNED_DAYS, seed=10)
    source = write(home / "data" / "stream.csv", rows)
    with retired(MODEL):
        with pytest.raises(TrainingFailed, match="rows_min is 5000"):
            serve_model(spec_of(source, {"rows_min": 5000}, {"trainings_failed_max": 1}), home)
        refused = Served("", spec_of(source), home)
        eventually(lambda: refused.state.paused)
        yield serve_model(spec_of(source), home)


def test_a_mended_spec_gets_its_model_though_control_had_given_up(stream):
    actions = [entry.action for entry in stream.catalog.entries()]
    assert actions[:4] == ["TakeOver", "Train", "RejectRun", "Pause"]
    assert actions[4:] == ["Resume", "Train", "Install"]
    assert stream.state.champion == 1


def test_a_change_of_the_world_brings_a_challenger_all_the_way(stream):
    before = stream.catalog.latest()
    pids = stream.pids()
    traffic = Traffic(stream.url, MODEL, controller(MODEL, stream.store.url, stream.home))
    try:
        for day in live_days():
            traffic.day(day)
            if stream.state.champion == 2 and stream.state.stage == "steady":
                break
        report = traffic.settle()
    finally:
        traffic.close()
    entries = stream.catalog.entries(before.sequence)
    told = "\n".join(f"{entry.action}: {entry.reason}" for entry in entries)
    counts = traffic.counts
    assert (counts.failed, traffic.faults) == (0, []), told
    led = [entry.action for entry in entries]
    # a slow machine lets more days pass, and what saw little of the change is improved upon
    assert led[:5] == ["Train", "StartShadow", "SetShare", "Promote", "Settle"], told
    assert all(entry.actor.startswith("controller") for entry in entries)
    assert "better" in entries[3].reason
    moments = [entry.event_s for entry in entries]
    assert moments == sorted(moments)
    assert moments[0] > START_S + (LEARNED_DAYS + CALM_DAYS) * DAY_S  # not before the change
    # decisive evidence may end a canary before anybody asked it
    assert {one.version for one in traffic.answers} >= {1, 2}
    assert report.rows == counts.rows
    assert report.labels_joined == counts.labels_acknowledged == counts.labels_sent
    assert stream.pids() == pids  # no process was restarted for any of it
