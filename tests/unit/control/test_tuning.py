"""A search on record: where its trials are, when two are the same one, and what it came to."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from hapredict.control import tuning
from hapredict.control.show_tuning import TuningShown, progress_table, summary_of, summary_text
from hapredict.control.tuning import Book, Progress, Request, book_of, judged
from hapredict.errors import NotFound
from hapredict.registry.store import open_store
from hapredict.sections import TrainingSpec
from hapredict.training.search import Comparison, Trial
from tests.support.bundles import spec_of

OWN = {"family": "mlp", "hidden": (128, 128), "dropout": 0.1}
OTHER = {**OWN, "hidden": (64,), "dropout": 0.2}
TRAINING = TrainingSpec()
GAIN = Comparison("better", 900, (0, 1), 0.20, 0.18, -0.02, -0.03, -0.01, (-0.03, -0.01))


@pytest.fixture
def store(tmp_path):
    return open_store((tmp_path / "店").as_uri())


def finished(number, settings, loss, **more):
    return Trial(number, settings, "finished", share=1.0, loss=loss, **more)


def spec(**sections):
    return spec_of("flights", **sections)


def test_a_book_gives_back_its_trials_by_number(store):
    book = Book(store, "tuning/flights/k")
    trials = [finished(0, OWN, 0.5), Trial(1, OTHER, reports=((0.1, 0.7),))]
    for trial in reversed(trials):
        book.note(trial)
    book.note(replace(trials[1], share=0.4))
    assert book.trials() == [trials[0], replace(trials[1], share=0.4)]
    assert Book(store, "tuning/flights/other").trials() == []


def test_a_book_keeps_bytes_until_they_are_dropped(store):
    book = Book(store, "tuning/flights/k")
    assert book.kept("0001.state") is None
    book.keep("0001.state", b"first")
    book.keep("0001.state", b"second")
    book.keep("0002.state", b"")
    assert (book.kept("0001.state"), book.kept("0002.state")) == (b"second", b"")
    book.drop("0001.state")
    book.drop("0001.state")
    assert book.kept("0001.state") is None
    assert book.kept("0002.state") == b""


@pytest.mark.parametrize(
    "changes",
    [
        {"tuning": {"trials": 99}},
        {"tuning": {"trials_at_once": 3}},
        {"tuning": {"time_max_s": 5}},
        {"tuning": {"latency_ms_max": 2}},
        {"training": {"workers": 3, "cpus_per_worker": 2}},
        {"serving": {"min_replicas": 3}},
    ],
)
def test_limits_and_numbers_go_on_with_the_same_search(store, changes):
    assert book_of(store, spec(**changes), "rows") == book_of(store, spec(), "rows")


@pytest.mark.parametrize(
    "changes",
    [
        {"tuning": {"seed": 1}},
        {"tuning": {"families": ["trees"]}},
        {"tuning": {"space": {"dropout": [0.1]}}},
        {"training": {"seed": 1}},
        {"training": {"hidden": [8]}},
        {"training": {"validation_share": 0.2}},
    ],
)
def test_what_changes_an_outcome_is_another_search(store, changes):
    assert book_of(store, spec(**changes), "rows") != book_of(store, spec(), "rows")
    assert book_of(store, spec(), "other rows") != book_of(store, spec(), "rows")


def test_what_was_asked_for_is_found_again(store):
    with pytest.raises(NotFound):
        tuning.asked(store, "flights")
    assert tuning.noted(store, "flights") is None
    request = Request(spec(tuning={"trials": 7}))
    tuning.ask(store, request, 100.0)
    assert tuning.asked(store, "flights") == request
    assert Request(spec()).id != request.id
    begun = tuning.noted(store, "flights")
    assert (begun.request, begun.state, begun.begun_s) == (request.id, "running", 100.0)


def test_a_search_that_is_asked_for_again_keeps_its_time(store):
    request = Request(spec())
    tuning.ask(store, request, 100.0)
    begun = tuning.noted(store, "flights")
    tuning.note(store, "flights", replace(begun, state="stopped", key="k", spent_s=50.0))
    tuning.ask(store, request, 200.0)
    again = tuning.noted(store, "flights")
    assert (again.state, again.key, again.spent_s, again.begun_s) == ("running", "k", 50.0, 100.0)
    tuning.note(store, "flights", replace(again, state="finished"))
    tuning.ask(store, request, 300.0)
    assert tuning.noted(store, "flights").begun_s == 300.0


def test_asking_again_tries_failed_trials_again_and_no_others(store):
    request = Request(spec())
    tuning.ask(store, request, 100.0)
    tuning.note(store, "flights", replace(tuning.noted(store, "flights"), state="failed", key="k"))
    book = Book(store, "tuning/flights/k")
    trials = [finished(0, OWN, 0.5), Trial(1, OTHER, "failed", "no XGBoost", 0.2, 0.7)]
    for trial in trials:
        book.note(trial)
    tuning.ask(store, request, 200.0)
    assert book.trials() == [trials[0], Trial(1, OTHER, "running", "failed before")]


def test_progress_comes_back_without_the_reports_of_its_trials(store):
    trials = (finished(0, OWN, 0.5, reports=((1.0, 0.5),)), finished(1, OTHER, 0.4))
    found = judged(TRAINING, trials, GAIN, None)
    progress = Progress("id", "finished", found.sentence, "k", 2, trials, "rows", 3.0, found)
    tuning.note(store, "flights", progress)
    shown = replace(progress, trials=(replace(trials[0], reports=()), trials[1]))
    assert tuning.noted(store, "flights") == shown


def test_better_settings_are_recommended_with_their_numbers_and_as_a_patch():
    found = judged(TRAINING, [finished(0, OWN, 0.5), finished(1, OTHER, 0.4)], GAIN, None)
    assert found.recommended
    assert found.settings == OTHER
    assert found.patch == {"training": {"hidden": [64], "dropout": 0.2}}
    assert found.sentence.startswith("dropout 0.2, hidden 64: better than the spec's own settings")
    assert "0.20000 -> 0.18000" in found.sentence


def no_gain():
    return replace(GAIN, outcome="not better", high=0.01)


@pytest.mark.parametrize(
    ("trials", "comparison", "told"),
    [
        ([finished(0, OWN, 0.4), finished(1, OTHER, 0.5)], None, "none of 1 others has a lower"),
        ([finished(0, OWN, 0.5), finished(1, OTHER, 0.4)], no_gain(), "is not better than"),
        (
            [finished(0, OWN, 0.5), finished(1, OTHER, 0.4)],
            "trial 1 fails with seed 2: no",
            "cannot be compared: trial 1 fails with seed 2",
        ),
        ([Trial(0, OWN, "failed"), Trial(1, OTHER, "stopped")], None, "no trial finished"),
        ([finished(0, OWN, 0.4, latency_ms=9.0)], None, "no settings are within 2 ms a row"),
    ],
)
def test_without_a_proven_gain_the_specs_own_settings_stand(trials, comparison, told):
    found = judged(TRAINING, trials, comparison, 2.0)
    assert not found.recommended
    assert found.patch == {}
    assert found.sentence.startswith("the spec's own settings stand: ")
    assert told in found.sentence


def test_settings_are_needed_where_the_specs_own_are_too_slow_or_fail():
    best = finished(1, OTHER, 0.6, latency_ms=1.0)
    slow = judged(TRAINING, [finished(0, OWN, 0.5, latency_ms=4.0), best], no_gain(), 2.0)
    broken = judged(TRAINING, [Trial(0, OWN, "failed", "the loss is nan"), best], None, 2.0)
    assert slow.recommended
    assert "take 4 ms a row and 2 ms are allowed; not better than" in slow.sentence
    assert broken.recommended
    assert "the spec's own settings fail: the loss is nan" in broken.sentence
    assert slow.patch == broken.patch == {"training": {"hidden": [64], "dropout": 0.2}}


def searched(**changes):
    trials = (
        finished(0, OWN, 0.5, latency_ms=1.25),
        finished(1, OTHER, 0.4, latency_ms=0.5),
        Trial(2, OTHER, "stopped", "loss 0.9 is [not] good", 0.1, 0.9),
        Trial(3, OTHER, "running", share=0.35, loss=0.6, restarts=1),
    )
    found = judged(TRAINING, trials[:2], GAIN, None)
    progress = Progress("id", "running", "searching", "k", 4, trials, "9 rows", 3.0, found)
    return replace(progress, **changes)


def printed(progress, *, terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=160)
    with TuningShown(console) as shown:
        shown.show(progress)
        shown.show(progress)
    return console.file.getvalue()


def test_the_table_has_a_row_a_trial_with_the_reason_why_it_ended():
    text = printed(searched(), terminal=True)
    assert "3 of 4 trials" in text
    assert "stopped: loss 0.9 is [not] good" in text
    assert "dropout 0.2, hidden 64" in text
    assert progress_table(searched()).row_count == 4


def test_a_low_terminal_shows_what_runs_and_what_is_best():
    assert progress_table(searched(), 2).row_count == 2
    assert progress_table(searched(), 3).row_count == 3
    cells = list(progress_table(searched(), 2).columns[0].cells)
    assert [str(cell) for cell in cells] == ["1", "3"]


def test_a_log_has_one_line_for_each_thing_that_happens():
    lines = printed(searched(), terminal=False).splitlines()
    assert lines[0] == "  searching"
    assert [line.split(":")[0].strip() for line in lines[1:]] == [f"trial {n}" for n in range(4)]
    assert lines[1] == "  trial 0: finished; loss 0.5 after 100%, 1.25 ms a row"


def test_the_outcome_is_json_and_a_few_lines_that_say_the_same():
    summary = summary_of(searched(state="finished", detail="hidden 64: better"))
    assert json.loads(json.dumps(summary)) == {
        **summary,
        "trials": [
            {**one, "settings": json.loads(json.dumps(one["settings"]))}
            for one in summary["trials"]
        ],
    }
    assert summary["recommended"]
    assert summary["holdout"]["by_seed"] == [-0.03, -0.01]
    text = summary_text({**summary, "file": "a.tuned.yaml"})
    assert text.splitlines()[0] == "hidden 64: better"
    assert "2 finished, 1 stopped, 1 running" in text
    assert "  hidden: [64]" in text
    assert "a.tuned.yaml" in text
    assert "written into the spec" in summary_text({**summary, "written": True})
