"""`hapredict tune` on a real cluster: what it finds, and that no kill makes it start over."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from click.testing import CliRunner

from hapredict.cli import cli
from hapredict.control import tuning
from hapredict.control.ray_tuning import stop, tune
from hapredict.control.specs import store_url, train_folder
from hapredict.errors import Conflict, SpecError, TimedOut, TrainingFailed
from hapredict.registry.store import open_store
from hapredict.spec import build_spec
from tests.support.clusters import eventually
from tests.support.people import people, small_spec, write

ROOT = Path(__file__).parents[2]
WAIT_S = 300
JOB_S = 300
POOR = 1e-6  # learns next to nothing in any of these searches
SPACE = {
    "hidden": [[8], [32, 32]],
    "learning_rate": [POOR, 0.02],
    "batch_rows": [64],
    "dropout": [0.0],
    "weight_decay": [0.02],
}


@pytest.fixture(scope="module")
def home(cluster):
    home = Path(cluster.home)
    write(home / "data" / "tuned.csv", people(3000, seed=11))
    return home


def searched(name, *, trials=4, epochs=100, at_once=1, **more):
    """A spec whose own settings are poor, and a small space around them.

    Each process that fits costs seconds before its first step: two at once only where it matters.
    """
    training = {
        "hidden": [8],
        "learning_rate": POOR,
        "dropout": 0.0,
        "weight_decay": 0.02,
        "epochs_max": epochs,
    }
    tuning_section = {"trials": trials, "trials_at_once": at_once, "space": SPACE, **more}
    return small_spec(name, "data/tuned.csv", training=training, tuning=tuning_section)


def nothing(_):
    """Whoever looks away."""


def store_of(spec, home):
    return open_store(store_url(spec, home))


def book_of(spec, home):
    store = store_of(spec, home)
    return tuning.Book(store, f"tuning/{spec.name}/{tuning.noted(store, spec.name).key}")


def outcome(trials):
    """What the fits of a search came to, by settings: those that went to their ends."""
    return {
        json.dumps(trial.to_json()["settings"], sort_keys=True): trial.loss
        for trial in trials
        if trial.state == "finished"
    }


@pytest.fixture(scope="module")
def found(home):
    """An undisturbed search."""
    return tune(searched("calm", at_once=2), home, nothing, wait_s=WAIT_S)


def test_a_search_ends_with_a_verdict_on_rows_that_no_trial_saw(home, found):
    assert found.state == "finished"
    assert len(found.trials) == 4
    assert found.trials[0].state == "finished"  # the spec's own are never stopped
    assert found.trials[0].settings["hidden"] == (8,)
    assert {trial.state for trial in found.trials} <= {"finished", "stopped"}
    assert all(trial.reason for trial in found.trials if trial.state == "stopped")
    assert all(trial.latency_ms > 0 for trial in found.trials if trial.state == "finished")
    assert found.found.recommended, found.detail
    assert found.found.patch["training"]["learning_rate"] == 0.02
    assert found.found.comparison.rows == 300
    assert found.found.comparison.high < 0
    assert len(found.found.comparison.by_seed) == 3


def test_a_search_leaves_its_trials_and_two_checkpoints_behind(home, found):
    book = book_of(searched("calm", at_once=2), home)
    assert [trial.number for trial in book.trials()] == [0, 1, 2, 3]
    best = min((t for t in found.trials if t.state == "finished"), key=lambda trial: trial.loss)
    for trial in found.trials:
        kept = book.kept(f"{trial.number:04d}.state") is not None
        assert kept == (trial.number in {0, best.number})
    folder = Path(train_folder(searched("calm", at_once=2), home, "calm"))
    assert not list(folder.glob("tune-*"))


def test_the_same_command_says_the_same_at_once_and_fits_nothing(home, found):
    again = tune(searched("calm", at_once=2), home, nothing, wait_s=WAIT_S)
    assert again.trials == found.trials
    assert again.found == found.found


def test_more_trials_go_on_where_fewer_ended(home, found):
    more = tune(searched("calm", trials=6, at_once=2), home, nothing, wait_s=WAIT_S)
    assert more.trials[:4] == found.trials
    # the space holds four settings, of which the first is one
    assert len(more.trials) == 4
    assert more.found == found.found


def test_killed_trials_and_a_killed_tuner_change_no_outcome(home, found):
    spec = searched("hurt", at_once=2)
    killed = {}

    def kill(progress):
        running = [t for t in progress.trials if t.state == "running" and 0.1 < t.share < 0.7]
        if running and "trial" not in killed:
            killed["trial"] = running[0].number
            _kill(running[0].pid)
        elif "trial" in killed and "tuner" not in killed and "searching" in progress.detail:
            victim = progress.trials[killed["trial"]]
            if victim.restarts or victim.state != "running":
                killed["tuner"] = progress.pid
                _kill(progress.pid)

    hurt = tune(spec, home, kill, wait_s=WAIT_S)
    assert set(killed) == {"trial", "tuner"}
    assert hurt.state == "finished"
    assert hurt.pid != killed["tuner"]
    assert hurt.trials[killed["trial"]].restarts >= 1
    calm, after = outcome(found.trials), outcome(hurt.trials)
    both = set(calm) & set(after)
    assert len(both) >= 2
    # to the last bit: a fit that goes on ends as one that never stopped
    assert {key: after[key] for key in both} == {key: calm[key] for key in both}


def _kill(pid):
    process = psutil.Process(pid)
    assert "ray::" in " ".join(process.cmdline())
    process.send_signal(signal.SIGKILL)


def test_an_interrupt_stops_the_search_and_the_same_command_takes_it_up(home):
    spec = searched("broken_off", at_once=2)
    seen = []

    def interrupt(progress):
        running = [trial for trial in progress.trials if trial.state == "running" and trial.share]
        if running and not seen:
            seen[:] = running
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(spec, home, interrupt, wait_s=WAIT_S)
    stopped = tuning.noted(store_of(spec, home), spec.name)
    assert stopped.state == "stopped"
    assert not stop(spec.name)
    eventually(lambda: not any(map(_is_trial, (trial.pid for trial in seen))))
    before = {trial.number: trial for trial in book_of(spec, home).trials()}
    again = tune(spec, home, nothing, wait_s=WAIT_S)
    assert again.state == "finished"
    assert again.spent_s > stopped.spent_s
    for trial in seen:
        assert again.trials[trial.number].share >= before[trial.number].share
        assert again.trials[trial.number].seconds >= before[trial.number].seconds


def _is_trial(pid):
    try:
        return "run_trial" in " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


def test_a_search_goes_on_when_nobody_waits_and_lets_no_other_in(home):
    spec = searched("left_alone", trials=2, epochs=5)
    with pytest.raises(TimedOut, match="it goes on alone"):
        tune(spec, home, nothing, wait_s=0)
    with pytest.raises(Conflict, match="a search for 'left_alone' with another spec runs"):
        tune(searched("left_alone", trials=3, epochs=5), home, nothing, wait_s=0)
    store = store_of(spec, home)
    ended = eventually(
        lambda: tuning.noted(store, spec.name),
        lambda progress: progress.state == "finished",
        wait_s=WAIT_S,
    )
    assert len(ended.trials) == 2


def test_settings_that_are_too_slow_cannot_win(home):
    spec = searched("hasty", trials=2, epochs=3, latency_ms_max=1e-6)
    ended = tune(spec, home, nothing, wait_s=WAIT_S)
    assert not ended.found.recommended
    assert "no settings are within 1e-06 ms a row" in ended.detail
    slow = [trial for trial in ended.trials if trial.state == "finished"]
    assert slow
    assert all("so it cannot win" in trial.reason for trial in slow)


def test_trees_and_networks_are_searched_together(home):
    spec = searched("mixed", trials=5, epochs=3, families=["linear", "trees"])
    raw = spec.model_dump(mode="json")
    raw["tuning"]["space"] = {"trees.rounds_max": [40], "epochs_max": [3]}
    ended = tune(build_spec(raw), home, nothing, wait_s=WAIT_S)
    families = [trial.settings["family"] for trial in ended.trials]
    assert families[0] == "mlp"
    assert set(families[1:]) <= {"linear", "trees"}
    finished = {trial.settings["family"] for trial in ended.trials if trial.state == "finished"}
    assert finished & {"linear", "trees"}
    assert not [trial.reason for trial in ended.trials if trial.state == "failed"]


def test_a_trial_that_cannot_be_fitted_is_told_and_the_search_goes_on(home):
    spec = searched("brittle", trials=3, epochs=3)
    raw = spec.model_dump(mode="json")
    raw["tuning"]["space"] = {"learning_rate": [1e30], "hidden": [[8], [32]], "dropout": [0.0]}
    ended = tune(build_spec(raw), home, nothing, wait_s=WAIT_S)
    failed = [trial for trial in ended.trials if trial.state == "failed"]
    assert failed
    assert all("learning_rate" in trial.reason for trial in failed)
    assert ended.detail.startswith("the spec's own settings stand")


def test_a_trial_whose_process_keeps_dying_is_told_and_the_search_goes_on(home):
    raw = searched("mortal", trials=2).model_dump(mode="json")
    raw["training"]["worker_failures_max"] = 0
    killed = []

    def kill(progress):
        for trial in progress.trials[1:]:
            if trial.state == "running" and trial.pid and not killed:
                killed.append(trial.pid)
                _kill(trial.pid)

    ended = tune(build_spec(raw), home, kill, wait_s=WAIT_S)
    assert killed
    assert [trial.state for trial in ended.trials] == ["finished", "failed"]
    assert ended.trials[1].reason.startswith("failed 1 times, last: ")
    assert "none of 1 others has a lower validation loss" in ended.detail


def test_what_cannot_be_searched_is_told_in_a_sentence(home):
    with pytest.raises(SpecError, match=r"tuning\.space\.members: is no field of mlp"):
        tune(searched("wrong", space={"members": [2]}), home, nothing, wait_s=0)
    raw = searched("wrong", epochs=5).model_dump(mode="json")
    raw["training"]["learning_rate"] = 1e30
    raw["tuning"]["space"] = {"learning_rate": [1e30]}
    raw["tuning"]["trials"] = 2
    with pytest.raises(
        TrainingFailed, match=r"all 2 trials failed, the first with: .*learning_rate"
    ):
        tune(build_spec(raw), home, nothing, wait_s=WAIT_S)
    raw["data"]["target"] = "worse"
    with pytest.raises(TrainingFailed, match=r"worse: data\.target names it"):
        tune(build_spec(raw), home, nothing, wait_s=WAIT_S)


def test_the_command_writes_what_it_found_into_the_spec(home, found, tmp_path):
    raw = searched("calm", at_once=2).model_dump(mode="json", exclude_unset=True)
    path = tmp_path / "calm.yaml"
    path.write_text("# by hand\n" + yaml.safe_dump(raw), encoding="utf-8")
    words = ["--home", str(home), "tune", str(path), "--write", "-o", "json"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["recommended"]
    assert told["written"]
    beside = yaml.safe_load((tmp_path / "calm.tuned.yaml").read_text(encoding="utf-8"))
    assert beside == told["patch"] == json.loads(json.dumps(found.found.patch))
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# by hand\n")
    training = {**raw["training"], **told["patch"]["training"]}
    assert yaml.safe_load(text)["training"] == training


def test_a_job_searches_and_prints_the_changes(cluster, home, found, tmp_path):
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    raw = searched("calm", at_once=2).model_dump(mode="json", exclude_unset=True)
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    log = _submit(cluster, tmp_path)
    assert "better than the spec's own settings" in log
    assert "  learning_rate: 0.02" in log
    assert "trial 0: finished" in log


def _submit(cluster, folder):
    ray = Path(sys.executable).parent / "ray"
    entry = ["--working-dir", str(folder), "--", "python", "jobs/tune.py", "spec.yaml"]
    ended = subprocess.run(
        [ray, "job", "submit", *entry],
        env={**os.environ, "RAY_API_SERVER_ADDRESS": cluster.dashboard_url, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=JOB_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_a_job_that_is_stopped_stops_its_search(cluster, home, tmp_path):
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    spec = searched("by_job", epochs=400)
    raw = spec.model_dump(mode="json", exclude_unset=True)
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    ray = Path(sys.executable).parent / "ray"
    environment = {**os.environ, "RAY_API_SERVER_ADDRESS": cluster.dashboard_url, "NO_COLOR": "1"}
    entry = ["--working-dir", str(tmp_path), "--", "python", "jobs/tune.py", "spec.yaml"]
    subprocess.run(
        [ray, "job", "submit", "--no-wait", "--submission-id", "searching", *entry],
        env=environment,
        check=True,
        capture_output=True,
    )
    store = store_of(spec, home)
    eventually(
        lambda: tuning.noted(store, "by_job"),
        lambda progress: progress is not None and any(trial.share for trial in progress.trials),
        wait_s=WAIT_S,
    )
    subprocess.run(
        [ray, "job", "stop", "searching"], env=environment, check=True, capture_output=True
    )
    ended = eventually(
        lambda: tuning.noted(store, "by_job"), lambda progress: progress.state != "running"
    )
    assert ended.state == "stopped"
    time.sleep(1)
    assert tuning.noted(store, "by_job") == ended
