"""What begins a training, and what keeps one from beginning: one row a rule."""

from dataclasses import replace

from hapredict.control.actions import Hold, Train
from hapredict.control.decide import decide
from tests.support.control import (
    DRIFT,
    alarm,
    at,
    check_row,
    report,
    rows,
    snapshot,
    steady,
)

FROZEN = replace(steady(), frozen="v2 was worse than v1")
MOVED = "drift in 'dep_hour' since 2013-03-10 (total variation 0.200)"


def train(trigger: str, reason: str) -> Train:
    return Train(reason=reason, run="run-00000042", trigger=trigger)


TRIGGERS = {
    "somebody's wish begins a training at once, frozen or not": (
        snapshot(FROZEN, 1, retrain_requested="new prices"),
        train("manual", "asked for: new prices"),
    ),
    "a rise of the live loss comes before drift of inputs": (
        snapshot(steady(), 12, report=report(alarms=(alarm(), alarm("concept drift", "")))),
        train("concept drift", "the live loss is 0.200 over its baseline since 2013-03-10"),
    ),
    "drift of the scores comes before drift of features": (
        snapshot(steady(), 12, report=report(alarms=(alarm(), alarm("score drift", "score")))),
        train("score drift", "drift in the scores since 2013-03-10 (total variation 0.200)"),
    ),
    "drift of a feature begins a training": (
        snapshot(steady(), 12, report=DRIFT),
        train("feature drift", MOVED),
    ),
    "drift of many features names the largest": (
        snapshot(
            steady(),
            12,
            report=report(alarms=(replace(alarm(feature="origin"), effect=0.1), alarm())),
        ),
        train("feature drift", f"{MOVED} (and 1 more)"),
    ),
    "age begins a training": (
        snapshot(steady(), 30, report=report()),
        train("age", "v1 is 30.0 days old"),
    ),
    "two failed trainings do not keep the third from beginning": (
        snapshot(replace(steady(), failed_trainings=2), 12, report=DRIFT),
        train("feature drift", MOVED),
    ),
}

GATES = {
    "quiet service says how old the champion is": (
        snapshot(steady(), 12, report=report()),
        Hold(reason="v1 serves and nothing asks for a training; it is 12.0 of 30 days old"),
    ),
    "an alarm about an earlier champion is no alarm": (
        snapshot(steady(), 12, report=replace(DRIFT, version=7)),
        Hold(reason="v1 serves and nothing asks for a training; it is 12.0 of 30 days old"),
    ),
    "drift within the cooldown waits": (
        snapshot(replace(steady(), last_training_s=at(8.2)), 12, report=DRIFT),
        Hold(reason=f"{MOVED}, but 3.2 of 7 cooldown days are left"),
    ),
    "drift without new labels waits": (
        snapshot(replace(steady(), labels_at_training=9_900), 12, report=DRIFT),
        Hold(reason=f"{MOVED}, but only 100 of 500 new labels have come"),
    ),
    "age without a report waits for labels": (
        snapshot(steady(), 40),
        Hold(reason="v1 is 40.0 days old, but only 0 of 500 new labels have come"),
    ),
    "drift under a freeze waits": (
        snapshot(FROZEN, 12, report=DRIFT),
        Hold(reason=f"{MOVED}, but trainings are frozen: v2 was worse than v1"),
    ),
    "everything that is missing is said at once": (
        snapshot(
            replace(FROZEN, last_training_s=at(8.2), labels_at_training=9_900), 12, report=DRIFT
        ),
        Hold(
            reason=f"{MOVED}, but trainings are frozen: v2 was worse than v1 and "
            "3.2 of 7 cooldown days are left and only 100 of 500 new labels have come"
        ),
    ),
}


@rows({**TRIGGERS, **GATES})
def test_rule(seen, expected):
    check_row(seen, expected)


def test_a_training_is_noted_with_its_time_and_its_labels():
    state = check_row(*TRIGGERS["drift of a feature begins a training"])
    assert (state.training, state.last_training_s) == ("run-00000042", at(12))
    assert state.labels_at_training == 10_000


def test_before_any_event_the_clock_stands_at_the_last_known_moment():
    action = decide(snapshot(steady(), None))
    assert action == Hold(
        reason="v1 serves and nothing asks for a training; it is 0.0 of 30 days old"
    )


def test_a_date_beyond_the_calendar_is_told_in_seconds():
    strange = replace(alarm(), since_s=1e18)
    action = decide(snapshot(steady(), 12, report=report(alarms=(strange,))))
    assert "since 1000000000000000000 s" in action.reason
