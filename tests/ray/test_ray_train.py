"""Training on real workers: what it says, how it is stopped, and what it makes of damage."""

import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray

from hapredict.errors import TrainingCancelled, TrainingFailed, UnknownName
from hapredict.sections import WorkerRange
from hapredict.training.feed import Resident
from hapredict.training.fitted import unpack_arrays
from hapredict.training.ray_train import off_head, train_on_ray
from tests.support.clusters import eventually
from tests.support.learnable import SPEC, learnable, split

# without dropout, so that one process can be compared with two
ONE = SPEC.model_copy(
    update={
        "family": "tests.support.slow:slow",
        "workers": 1,
        "dropout": 0.0,
        "epochs_max": 30,
        "batch_rows": 256,
    }
)
TWO = ONE.model_copy(update={"workers": 2})


@pytest.fixture(scope="module")
def task():
    shape, examples = learnable(rows=6001)
    return shape, *split(examples)


@pytest.fixture(scope="module")
def calm(cluster, task, tmp_path_factory):
    """An undisturbed training, called from within an actor: its storage, its end, its reports."""
    shape, train, validation = task
    storage = str(tmp_path_factory.mktemp("calm"))

    class Supervisor:
        def train(self):
            events = []
            found = train_on_ray("calm", shape, TWO, train, validation, storage, events.append)
            return found, events

    supervisor = ray.remote(num_cpus=0)(Supervisor).options(**off_head()).remote()
    found, events = ray.get(supervisor.train.remote())
    ray.kill(supervisor)
    return storage, found, events


@pytest.fixture
def hold(cluster):
    """A file that makes trainings take their time while it exists."""
    file = Path(cluster.home) / "hold"
    file.touch()
    yield file
    file.unlink(missing_ok=True)


def stopped_at(epoch, run, task, spec, storage):
    """Cancel a training once it has finished an epoch, and wait for its workers' end."""
    seen = []

    with pytest.raises(TrainingCancelled, match=f"{run}.* was cancelled after epoch"):
        train_on_ray(
            run,
            task[0],
            spec,
            *task[1:],
            storage,
            seen.append,
            cancelled=lambda: bool(seen) and seen[-1]["epoch"] >= epoch,
        )
    # on a busy machine one may still be at its last checkpoint
    workers = [worker["pid"] for worker in seen[-1]["workers"]]
    eventually(lambda: not any(map(psutil.pid_exists, workers)))
    return seen[-1]["epoch"]


def states(storage, run):
    return sorted((Path(storage) / run).glob("*.state"))


def assert_close(one, other, atol):
    pairs = zip(unpack_arrays(one.weights), unpack_arrays(other.weights), strict=True)
    for mine, theirs in pairs:
        np.testing.assert_allclose(mine, theirs, atol=atol)


def test_two_workers_in_an_actors_training_end_where_one_process_does(calm, task):
    from hapredict.training.keras_fit import fit

    _, found, _ = calm
    shape, train, validation = task
    feed = Resident(train, TWO.shuffle_rows)
    assert_close(found, fit(shape, TWO, feed, validation, on_epoch=lambda _: None), 1e-5)
    assert (found.epochs, found.restarts, found.workers) == (TWO.epochs_max, 0, ((0, 2),))
    assert found.notes == ()


def test_reports_tell_progress_and_which_processes_make_it(calm):
    _, _, events = calm
    assert [event["epoch"] for event in events] == list(range(TWO.epochs_max + 1))
    assert all(event["epochs"] == TWO.epochs_max for event in events)
    assert events[0]["loss"] is None
    assert all(event["validation_loss"] > 0 for event in events[1:])
    workers = events[-1]["workers"]
    assert [worker["rank"] for worker in workers] == [0, 1]
    assert len({worker["pid"] for worker in workers}) == 2


def test_a_killed_worker_costs_time_and_not_one_bit(calm, task, tmp_path, hold):
    _, undisturbed, _ = calm
    killed = []

    def kill_one(event):
        if event["epoch"] == 3 and not killed:
            killed.append(event["workers"][1]["pid"])
            os.kill(killed[0], signal.SIGKILL)
            hold.unlink()

    found = train_on_ray("hit", task[0], TWO, *task[1:], str(tmp_path), kill_one)
    assert killed
    assert found.restarts == 1
    assert "a process died" in found.notes[0]
    assert found.weights == undisturbed.weights
    assert [report.epoch for report in found.history] == list(range(1, TWO.epochs_max + 1))


def test_the_same_run_goes_on_where_it_stopped_and_says_so(calm, task):
    storage, first, _ = calm
    seen = []
    again = train_on_ray("calm", task[0], TWO, *task[1:], storage, seen.append)
    assert again.weights == first.weights
    assert [event["epoch"] for event in seen] == [TWO.epochs_max]


def test_a_cancelled_run_goes_on_from_the_last_checkpoint_that_is_whole(calm, task, tmp_path, hold):
    _, undisturbed, _ = calm
    storage = str(tmp_path)
    stopped_at(4, "stopped", task, TWO, storage)
    hold.unlink()
    *_, before, newest = states(storage, "stopped")
    newest.write_bytes(newest.read_bytes()[:-1])
    seen = []
    found = train_on_ray("stopped", task[0], TWO, *task[1:], storage, seen.append)
    assert seen[0]["epoch"] == int(before.name[:8])
    assert found.weights == undisturbed.weights
    damaged = newest.name.replace(".state", ".damaged")
    assert found.notes == (f"{damaged}: damaged, set aside; going on from epoch {before.name[7]}",)


def test_with_all_checkpoints_damaged_training_starts_from_scratch(task, tmp_path, hold, cluster):
    storage = str(tmp_path)
    stopped_at(1, "ruined", task, ONE, storage)
    hold.unlink()
    for file in states(storage, "ruined"):
        file.write_bytes(b"nothing of use")
    seen = []
    found = train_on_ray("ruined", task[0], ONE, *task[1:], storage, seen.append)
    assert seen[0]["epoch"] == 0
    assert found.epochs == ONE.epochs_max
    assert found.notes[0].endswith("damaged, set aside; going on from scratch")


def test_out_of_memory_halves_what_is_taken_at_a_time_and_says_so(calm, task, tmp_path, cluster):
    _, undisturbed, _ = calm
    (Path(cluster.home) / "hungry").touch()
    spec = ONE.model_copy(update={"family": "tests.support.slow:hungry"})
    found = train_on_ray("hungry", task[0], spec, *task[1:], str(tmp_path))
    assert_close(found, undisturbed, 1e-5)
    assert "no room for 12 GiB; each batch is taken in two halves" in found.notes[0]


def test_out_of_memory_twice_ends_the_training(task, tmp_path, cluster):
    spec = ONE.model_copy(update={"family": "tests.support.slow:starving"})
    with pytest.raises(TrainingFailed, match=r"out of memory with half .* lower training.batch"):
        train_on_ray("starving", task[0], spec, *task[1:], str(tmp_path))


def test_an_elastic_training_starts_with_what_others_leave_it(calm, task, tmp_path):
    _, undisturbed, _ = calm
    free = ray.available_resources()["CPU"]
    spec = TWO.model_copy(
        update={"workers": WorkerRange(min=1, max=2), "cpus_per_worker": free / 2 - 1}
    )
    other = ray.remote(num_cpus=4)(Busy).remote()
    ray.get(other.ready.remote())
    found = train_on_ray("elastic", task[0], spec, *task[1:], str(tmp_path))
    ray.kill(other)
    assert found.workers == ((0, 1),)
    assert_close(found, undisturbed, 1e-5)


class Busy:
    """Holds CPUs."""

    def ready(self):
        return True


def test_a_training_that_cannot_succeed_is_tried_once_and_says_why(cluster, task, tmp_path):
    seen = []
    spec = ONE.model_copy(update={"family": "tests.support.families:bounded"})
    with pytest.raises(TrainingFailed, match=r"run 'vain': .*constraint") as caught:
        train_on_ray("vain", task[0], spec, *task[1:], str(tmp_path), seen.append)
    assert "\n" not in str(caught.value)
    assert len(seen) <= 1


def test_a_fault_that_comes_again_at_once_ends_the_training(cluster, task, tmp_path):
    spec = ONE.model_copy(update={"family": "tests.support.families:broken"})
    with pytest.raises(TrainingFailed) as caught:
        train_on_ray("broken", task[0], spec, *task[1:], str(tmp_path))
    why = "RuntimeError: this family is broken; and so it was again"
    assert str(caught.value) == f"run 'broken': {why}"


def test_a_family_that_there_is_not_is_found_before_anything_starts(cluster, task, tmp_path):
    spec = ONE.model_copy(update={"family": "nonesuch"})
    with pytest.raises(UnknownName, match="nonesuch"):
        train_on_ray("vain", task[0], spec, *task[1:], str(tmp_path))


@pytest.mark.skipif(not Path("/dev/nvidia0").exists(), reason="no GPU here")
def test_on_a_gpu_training_ends_near_where_it_does_without(calm, task, tmp_path):
    _, undisturbed, _ = calm
    spec = ONE.model_copy(update={"device": "gpu"})
    found = train_on_ray("gpu", task[0], spec, *task[1:], str(tmp_path))
    assert_close(found, undisturbed, 1e-3)
