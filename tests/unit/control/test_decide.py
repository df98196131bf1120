"""Pauses, runs and refusals: one row a rule."""

from dataclasses import replace

from hapredict.control.actions import (
    Abort,
    EnsureTraining,
    Hold,
    Install,
    Pause,
    RejectRun,
    RollBack,
    RunStatus,
    StartShadow,
    Train,
    apply,
)
from hapredict.control.decide import decide
from hapredict.registry import catalog
from hapredict.training.metrics import Verdict
from tests.support.control import (
    DRIFT,
    PASSED,
    WATCHED_WORSE,
    WORSE,
    at,
    check_row,
    empty,
    finished,
    report,
    rows,
    shadowing,
    snapshot,
    steady,
    training,
    version,
    watching,
)

FIRST_RUN = catalog.start_training(empty(), "run-7", at(0), 0)
RUN_IN_WATCH = catalog.start_training(watching(30), "run-7", at(30), 0)
PUBLISHED = version(run="run-7")
TOO_FEW = Verdict("not enough data", "90 rows in the hold-out", 200)
REFUSED = "replicas refuse v2: golden row 3 differs by 0.2"

PAUSES = {
    "a paused loop holds whatever is seen": (
        snapshot(catalog.pause(shadowing(), "a sale is on"), 40, report=WORSE),
        Hold(reason="paused: a sale is on"),
    ),
    "the third failed training in a row pauses the loop": (
        snapshot(replace(steady(), failed_trainings=3), 40, report=DRIFT),
        Pause(reason="3 trainings in a row failed"),
    ),
}

RUNS = {
    "without a model a training begins": (
        snapshot(empty(), None),
        Train(reason="there is no model yet", run="run-00000042", trigger="first model"),
    ),
    "the first model is installed at once": (
        snapshot(FIRST_RUN, 4, run=finished()),
        Install(
            reason="first model, of run-7: no worse on 900 rows",
            version=replace(PUBLISHED, number=1, published_s=at(4)),
        ),
    ),
    "a later model starts in shadow, published now": (
        snapshot(training(), 21, run=finished()),
        StartShadow(
            reason="v2, of run-7: no worse on 900 rows",
            version=replace(PUBLISHED, number=2, published_s=at(21)),
        ),
    ),
    "a failed training is counted": (
        snapshot(training(), 21, run=RunStatus("run-7", "failed", "loss is not finite")),
        RejectRun(reason="run-7 failed: loss is not finite", failed=True),
    ),
    "a challenger that its gate refuses is dropped and not counted": (
        snapshot(training(), 21, run=finished(verdict=Verdict("fail", "Brier 0.19 over 0.16"))),
        RejectRun(reason="run-7 is refused: Brier 0.19 over 0.16", failed=False),
    ),
    "without a champion a refusal is counted, so that trying ends": (
        snapshot(FIRST_RUN, 4, run=finished(verdict=Verdict("fail", "Brier 0.19 over 0.16"))),
        RejectRun(reason="run-7 is refused: Brier 0.19 over 0.16", failed=True),
    ),
    "a model with too little data is dropped and not counted": (
        snapshot(training(), 21, run=finished(verdict=TOO_FEW)),
        RejectRun(
            reason="run-7: not enough data (need 200): 90 rows in the hold-out", failed=False
        ),
    ),
    "without a champion too little data is counted, so that trying ends": (
        snapshot(FIRST_RUN, 4, run=finished(verdict=TOO_FEW)),
        RejectRun(reason="run-7: not enough data (need 200): 90 rows in the hold-out", failed=True),
    ),
    "a run without a verdict is refused": (
        snapshot(training(), 21, run=finished(verdict=None)),
        RejectRun(reason="run-7 ended without a verdict of the offline gates", failed=True),
    ),
    "a finished run without a model is refused": (
        snapshot(training(), 21, run=RunStatus("run-7", "finished", verdict=PASSED)),
        RejectRun(reason="run-7 ended without a model", failed=True),
    ),
    "a run that ends during a watch waits for it": (
        snapshot(RUN_IN_WATCH, 31, run=finished()),
        Hold(reason="v2 is watched: day 1.0 of 7"),
    ),
    "a run that nobody runs is started again under its name": (
        snapshot(training(), 21),
        EnsureTraining(reason="run-7 began and nobody runs it", run="run-7"),
    ),
    "a run that nobody runs is started again during a watch too": (
        snapshot(RUN_IN_WATCH, 31),
        EnsureTraining(reason="run-7 began and nobody runs it", run="run-7"),
    ),
    "the end of another run says nothing about this one": (
        snapshot(training(), 21, run=finished("run-3")),
        EnsureTraining(reason="run-7 began and nobody runs it", run="run-7"),
    ),
    "an interrupted run is started again under its name": (
        snapshot(training(), 21, run=RunStatus("run-7", "failed", "node lost", retry=True)),
        EnsureTraining(reason="run-7 was interrupted: node lost", run="run-7"),
    ),
    "a run in progress is waited for, and no second one begins": (
        snapshot(training(), 40, run=RunStatus("run-7", "running", "epoch 3"), report=DRIFT),
        Hold(reason="run-7 is in progress: epoch 3"),
    ),
}

REFUSALS = {
    "a challenger that replicas refuse is dropped": (
        snapshot(shadowing(), 21, refused={2: "golden row 3 differs by 0.2"}),
        Abort(reason=REFUSED),
    ),
    "a champion that replicas refuse gives way to the previous one": (
        snapshot(watching(), 31, refused={2: "golden row 3 differs by 0.2"}),
        RollBack(reason=REFUSED, to=1, freeze=REFUSED),
    ),
    "a champion refused long after its watch gives way too": (
        snapshot(
            catalog.settle(watching(), at(37)), 50, refused={2: "golden row 3 differs by 0.2"}
        ),
        RollBack(reason=REFUSED, to=1, freeze=REFUSED),
    ),
    "a previous champion that is refused as well cannot come back": (
        snapshot(watching(), 31, refused={1: "bad file", 2: "bad file"}, report=WATCHED_WORSE),
        Hold(reason="v2 is watched: day 1.0 of 7"),
    ),
    "a refused champion without a previous one is trained anew": (
        snapshot(steady(), 20, refused={1: "bad file"}, report=report()),
        Train(reason="replicas refuse v1: bad file", run="run-00000042", trigger="refused"),
    ),
}


@rows({**PAUSES, **RUNS, **REFUSALS})
def test_rule(seen, expected):
    check_row(seen, expected)


def test_a_first_model_before_any_event_is_published_when_its_run_says():
    seen = snapshot(FIRST_RUN, None, run=finished())
    assert apply(decide(seen), seen).versions[1].published_s == at(0)


def test_a_version_that_replicas_refused_is_forbidden_for_good():
    dropped = snapshot(shadowing(), 21, refused={2: "bad file"})
    assert apply(decide(dropped), dropped).refused == {2: "bad file"}
    back = snapshot(watching(), 31, refused={2: ""})
    assert apply(decide(back), back).refused == {2: "no reason was given"}


def test_resuming_after_failed_trainings_tries_again():
    paused = catalog.pause(replace(steady(), failed_trainings=3), "3 trainings in a row failed")
    seen = snapshot(catalog.resume(paused), 40, report=report())
    assert isinstance(decide(seen), Train)
