"""Workers that grow trees together, each in a thread, joined by XGBoost's own communicator."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import xgboost
from xgboost.collective import CommunicatorContext
from xgboost.tracker import RabitTracker

from hapredict.errors import TrainingFailed
from hapredict.sections import TrainingSpec, TreesSpec
from hapredict.training import trees_fit
from hapredict.training.feed import Resident
from tests.support.learnable import learnable, split

TREES = TreesSpec(rounds_max=25, rounds_patience=25, depth_max=3, learning_rate=0.3)
SPEC = TrainingSpec(family="trees", seed=3, trees=TREES)


def together(workers, shape, train, validation, resume=None, spec=SPEC):
    """What each of the workers returns or raises, and the reports of each."""
    tracker = RabitTracker(n_workers=workers, host_ip="127.0.0.1", sortby="task")
    tracker.start()
    told = tracker.worker_args()
    reports = [[] for _ in range(workers)]

    def work(rank):
        with CommunicatorContext(**told, dmlc_task_id=str(rank)):
            try:
                return trees_fit.fit(
                    shape,
                    spec,
                    Resident(train, 1_000_000),
                    validation,
                    rank=rank,
                    workers=workers,
                    resume=resume,
                    on_epoch=reports[rank].append,
                )
            except TrainingFailed as error:
                return error

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(work, range(workers)))
    tracker.wait_for(10)
    return found, reports


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_workers_grow_the_same_trees_about_as_good_as_one_does(task):
    shape, examples = learnable(task, rows=1000)
    train, validation = split(examples)
    calm = TREES.model_copy(update={"row_share": 1, "column_share": 1})
    spec = SPEC.model_copy(update={"trees": calm})
    (first, second), reports = together(2, shape, train, validation, spec=spec)
    assert first == second
    one = trees_fit.fit(shape, spec, Resident(train, 1000), validation, on_epoch=lambda _: None)
    assert first.history[-1].loss == pytest.approx(one.history[-1].loss, rel=0.05)
    assert [report.checkpoint is None for report in reports[1]] == [True] * 3
    booster = xgboost.Booster(model_file=bytearray(trees_fit.trees_of(first.weights)))
    labels = (validation.labels.astype(float) - shape.label_mean) / shape.label_scale
    judged = xgboost.DMatrix(trees_fit.columns(validation), labels)
    booster.set_param({"eval_metric": trees_fit.parameters(shape, SPEC)["eval_metric"]})
    loss = float(booster.eval(judged).rpartition(":")[2]) ** (2 if task == "regression" else 1)
    told = first.history[first.best_epoch - 1].validation_loss
    assert told == pytest.approx(loss), "each judges its share, and all of it counts"


def test_workers_that_resume_end_in_the_same_bytes():
    shape, examples = learnable("binary", rows=600)
    train, validation = split(examples)
    whole, reports = together(2, shape, train, validation)
    again, _ = together(2, shape, train, validation, reports[0][0].checkpoint)
    assert again == whole


def test_a_row_of_one_worker_that_cannot_be_learned_from_stops_all_of_them():
    shape, examples = learnable("binary", rows=300)
    train, validation = split(examples)
    for part in (train, validation):
        labels = part.labels.copy()
        labels[7] = np.nan
        broken = replace(part, labels=labels)
        given = (broken, validation) if part is train else (train, broken)
        found, _ = together(2, shape, *given)
        assert [str(error) for error in found] == [
            "row 7 has the label nan; expected a class from 0 to 1"
        ] * 2


def test_fewer_rows_to_judge_by_than_workers_are_judged_by_all():
    shape, examples = learnable("binary", rows=300)
    train, validation = split(examples)
    (first, second), _ = together(2, shape, train, validation.take(slice(0, 1)))
    assert first == second
    assert np.isfinite(first.history[-1].validation_loss)
