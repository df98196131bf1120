"""Training on real workers, and what is left of it when one of them dies."""

import os
import signal

import numpy as np
import pytest
import ray

from hapredict.errors import TrainingFailed
from hapredict.training.fitted import unpack_arrays
from hapredict.training.ray_train import train_on_ray
from tests.support.learnable import SPEC, learnable, split

# without dropout, so that one process can be compared with two
TWO = SPEC.model_copy(update={"workers": 2, "dropout": 0.0, "epochs_max": 30})


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

    supervisor = ray.remote(num_cpus=0)(Supervisor).remote()
    found, events = ray.get(supervisor.train.remote())
    ray.kill(supervisor)
    return storage, found, events


def test_two_workers_in_an_actors_training_end_where_one_process_does(calm, task):
    from hapredict.training.keras_fit import fit

    _, found, _ = calm
    alone = fit(task[0], TWO, *task[1:], on_epoch=lambda _: None)
    for one, other in zip(unpack_arrays(found.weights), unpack_arrays(alone.weights), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert (found.epochs, found.restarts) == (TWO.epochs_max, 0)


def test_reports_tell_progress_and_which_processes_make_it(calm):
    _, _, events = calm
    assert [event["epoch"] for event in events] == list(range(TWO.epochs_max + 1))
    assert all(event["epochs"] == TWO.epochs_max for event in events)
    assert events[0]["loss"] is None
    assert all(event["validation_loss"] > 0 for event in events[1:])
    workers = events[-1]["workers"]
    assert [worker["rank"] for worker in workers] == [0, 1]
    assert len({worker["pid"] for worker in workers}) == 2


def test_a_killed_worker_costs_time_and_not_one_bit(calm, task, tmp_path):
    _, undisturbed, _ = calm
    shape, train, validation = task
    killed = []

    def kill_one(event):
        if event["epoch"] == 3 and not killed:
            killed.append(event["workers"][1]["pid"])
            os.kill(killed[0], signal.SIGKILL)

    found = train_on_ray("hit", shape, TWO, train, validation, str(tmp_path), kill_one)
    assert killed
    assert found.restarts == 1
    assert found.weights == undisturbed.weights
    assert [report.epoch for report in found.history] == list(range(1, TWO.epochs_max + 1))


def test_the_same_run_goes_on_where_it_stopped_and_says_so(calm, task):
    storage, first, _ = calm
    seen = []
    again = train_on_ray("calm", task[0], TWO, *task[1:], storage, seen.append)
    assert again.weights == first.weights
    assert [event["epoch"] for event in seen] == [TWO.epochs_max]


def test_a_training_that_cannot_succeed_says_why_in_one_line(cluster, task, tmp_path):
    spec = SPEC.model_copy(update={"family": "nonesuch"})
    with pytest.raises(TrainingFailed) as caught:
        train_on_ray("vain", task[0], spec, *task[1:], str(tmp_path))
    assert str(caught.value) == "run 'vain': there is no model family 'nonesuch'; known: mlp"
