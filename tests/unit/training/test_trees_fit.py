"""Trees: what a fit finds is what XGBoost finds by hand, and a fit that resumes ends the same."""

import sys
import tempfile
from dataclasses import replace

import numpy as np
import pytest
import xgboost

from hapredict.errors import TrainingFailed
from hapredict.sections import TrainingSpec, TreesSpec
from hapredict.training import trees_fit
from hapredict.training.feed import Resident, Window, plan_windows
from hapredict.training.fitted import pack_arrays
from tests.support.learnable import learnable, split

KINDS = ("binary", "multiclass", "regression", "quantiles")
TREES = TreesSpec(rounds_max=35, rounds_patience=10, depth_max=3, learning_rate=0.3)
SPEC = TrainingSpec(family="trees", seed=3, trees=TREES)


def task(kind, rows=800, **chosen):
    shape, examples = learnable("regression" if kind == "quantiles" else kind, rows, **chosen)
    if kind == "quantiles":
        shape = replace(shape, quantiles=(0.1, 0.5, 0.9), outputs=3)
    return shape, *split(examples)


def fit(shape, spec, train, validation, reports=None, **rest):
    feed = train if hasattr(train, "windows") else Resident(train, 1_000_000)
    on_epoch = (lambda _: None) if reports is None else reports.append
    return trees_fit.fit(shape, spec, feed, validation, on_epoch=on_epoch, **rest)


def with_trees(**fields):
    return SPEC.model_copy(update={"trees": TREES.model_copy(update=fields)})


def matrices(shape, spec, train, validation):
    """What a person would hand to XGBoost, with the rows in the order of the first epoch."""
    order = next(plan_windows(train.rows, 1_000_000, seed=spec.seed, epoch=1)).rows
    return tuple(
        kind(
            trees_fit.columns(part),
            (part.labels.astype(float) - shape.label_mean) / shape.label_scale,
        )
        for kind, part in (
            (xgboost.QuantileDMatrix, train.take(order)),
            (xgboost.DMatrix, validation),
        )
    )


def model_of(found):
    return xgboost.Booster(model_file=bytearray(trees_fit.trees_of(found.weights)))


def test_without_chance_a_fit_is_xgboost_train_called_by_hand():
    shape, train, validation = task("binary")
    spec = with_trees(rounds_patience=8, row_share=1, column_share=1)
    rows, judged = matrices(shape, spec, train, validation)
    by_hand = xgboost.train(
        trees_fit.parameters(shape, spec),
        rows,
        spec.trees.rounds_max,
        evals=[(judged, "judged")],
        early_stopping_rounds=8,
        verbose_eval=False,
    )
    by_hand = by_hand[: by_hand.best_iteration + 1]
    found = model_of(fit(shape, spec, train, validation))
    assert found.num_boosted_rounds() == by_hand.num_boosted_rounds()
    assert np.array_equal(found.predict(judged), by_hand.predict(judged))


@pytest.mark.parametrize("kind", KINDS)
def test_with_chance_a_fit_is_a_new_booster_over_the_last_for_each_ten_rounds(kind):
    shape, train, validation = task(kind, rows=400)
    spec = with_trees(rounds_max=25, rounds_patience=1000)
    rows, judged = both = matrices(shape, spec, train, validation)
    model, losses = None, []
    for number in range(25):
        if number % 10 == 0:
            by_hand = xgboost.Booster(trees_fit.parameters(shape, spec), both, model_file=model)
        by_hand.update(rows, number)
        losses.append(float(by_hand.eval(judged).rpartition(":")[2]))
        model = by_hand.save_raw()
    by_hand = by_hand[: int(np.argmin(losses)) + 1]
    found = trees_fit.trees_of(fit(shape, spec, train, validation).weights)
    assert found == bytes(by_hand.save_raw("ubj"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_that_resumes_ends_in_the_same_bytes(kind):
    shape, train, validation = task(kind, rows=400)
    spec = with_trees(rounds_patience=30)
    reports, resumed = [], []
    whole = fit(shape, spec, train, validation, reports)
    assert len(reports) == whole.epochs == len(whole.history) > 2
    for past in (0, 1, len(reports) - 1):
        resumed.clear()
        again = fit(shape, spec, train, validation, resumed, resume=reports[past].checkpoint)
        assert again == whole
        assert resumed == reports[past + 1 :]


def test_the_same_spec_and_data_give_the_same_trees_and_another_seed_gives_others():
    shape, train, validation = task("binary")
    first = fit(shape, SPEC, train, validation)
    assert fit(shape, SPEC, train, validation) == first
    other = fit(shape, SPEC.model_copy(update={"seed": 4}), train, validation)
    assert other.weights != first.weights


def test_the_round_with_the_lowest_validation_loss_is_kept():
    shape, train, validation = task("binary", rows=300)
    spec = with_trees(rounds_max=400, rounds_patience=12, depth_max=8)
    reports = []
    found = fit(shape, spec, train, validation, reports)
    losses = [report.validation_loss for report in reports]
    assert losses[found.best_epoch - 1] == min(losses)
    _, judged = matrices(shape, spec, train, validation)
    assert float(model_of(found).eval(judged).rpartition(":")[2]) == pytest.approx(min(losses))
    best = model_of(found).num_boosted_rounds()
    assert found.best_epoch == -(-best // 10)
    assert found.epochs == -(-(best + 12) // 10), "it ends when patience does"


@pytest.mark.parametrize("kind", KINDS)
def test_trees_learn(kind):
    shape, train, validation = task(kind)
    reports = []
    fit(shape, SPEC, train, validation, reports)
    assert reports[-1].loss < 0.8 * reports[0].loss
    assert reports[-1].validation_loss < reports[0].validation_loss


def test_reports_tell_the_rows_a_second_if_there_is_a_clock():
    shape, train, validation = task("binary")
    ticks = iter(range(1000))
    reports = []
    fit(shape, SPEC, train, validation, reports, clock=lambda: float(next(ticks)))
    assert reports[0].rows_per_s == 10 * train.rows
    assert reports[0].epochs == 4


class InWindows:
    """The rows of a feed, window by window and each window by itself, as files would give them."""

    def __init__(self, examples, shuffle_rows):
        self.resident = Resident(examples, shuffle_rows)
        self.rows, self.window_rows = examples.rows, self.resident.window_rows

    def windows(self, seed, epoch):
        for window in self.resident.windows(seed, epoch):
            yield Window(window.examples.take(window.rows), np.arange(len(window.rows)))


def test_streamed_rows_grow_the_trees_of_rows_in_memory(monkeypatch, tmp_path, capfd):
    """Also where the fit resumes; and none of their files stay, even if it is broken off."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shape, train, validation = task("binary", rows=12_000, numbers=2, categories=1)
    spec = with_trees(rounds_max=12)
    streamed = InWindows(train, 5000)
    assert len(streamed.window_rows) > 1
    whole, found = [], []
    expected = fit(shape, spec, Resident(train, 5000), validation, whole)
    assert fit(shape, spec, streamed, validation, found) == expected
    resumed = fit(shape, spec, streamed, validation, resume=found[0].checkpoint)
    assert (resumed, found) == (expected, whole)

    def broken(report):
        assert list(tmp_path.rglob("*")), "streamed rows lie in files"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trees_fit.fit(shape, spec, streamed, validation, on_epoch=broken)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_a_missing_number_is_not_the_number_that_stands_in_its_place():
    shape, train, validation = task("binary", numbers=1, categories=0)
    flags = train.numbers[:, 1].copy()
    told = replace(train, labels=flags, numbers=train.numbers * np.float32([0, 1]))
    judged = validation.take(slice(0, 2))
    judged = replace(judged, numbers=np.float32([[0, 0], [0, 1]]), labels=np.float32([0, 1]))
    reports = []
    fit(shape, SPEC, told, judged, reports)
    assert reports[-1].validation_loss < 0.1


def test_rows_of_a_class_that_weighs_three_count_three_times():
    shape, train, validation = task("binary")
    spec = with_trees(row_share=1, rounds_max=20)
    weighed = fit(replace(shape, class_weights=(1.0, 3.0)), spec, train, validation)
    rows, judged = matrices(shape, spec, train, validation)
    for matrix in (rows, judged):
        matrix.set_weight(np.where(matrix.get_label() == 1, 3.0, 1.0))
    likely = model_of(weighed).predict(rows).astype(float)
    share = np.average(rows.get_label(), weights=rows.get_weight())
    assert np.average(likely, weights=rows.get_weight()) == pytest.approx(share, abs=0.02)
    assert float(model_of(weighed).eval(judged).rpartition(":")[2]) == pytest.approx(
        weighed.history[weighed.best_epoch - 1].validation_loss
    )


@pytest.mark.parametrize(
    ("kind", "label", "told"),
    [
        ("binary", np.nan, "expected a class from 0 to 1"),
        ("binary", 2, "expected a class from 0 to 1"),
        ("multiclass", 0.5, "expected a class from 0 to 2"),
        ("multiclass", -1, "expected a class from 0 to 2"),
        ("regression", np.inf, "expected a finite number"),
        ("quantiles", np.nan, "expected a finite number"),
    ],
)
def test_a_label_that_nothing_can_be_learned_from_is_named(kind, label, told):
    shape, train, validation = task(kind)
    for part, place in ((train, 17), (validation, 5)):
        labels = part.labels.copy()
        labels[place] = label
        broken = replace(part, labels=labels)
        given = (broken, validation) if part is train else (train, broken)
        with pytest.raises(TrainingFailed, match=f"row {place} has the label {label}; {told}"):
            fit(shape, SPEC, *given)


def test_an_infinite_value_is_named_by_what_the_data_call_its_row():
    shape, train, validation = task("binary")
    numbers = train.numbers.copy()
    numbers[3, 0] = np.inf
    broken = replace(train, numbers=numbers)

    class Named:
        rows, window_rows = broken.rows, (broken.rows,)

        def windows(self, seed, epoch):
            names = np.array([f"id {place}" for place in range(broken.rows)])
            yield Window(broken, np.arange(broken.rows), names)

    with pytest.raises(TrainingFailed, match=r"row id 3 has .* a number beyond 1e\+30 or infinite"):
        fit(shape, SPEC, Named(), validation)


def test_nothing_to_learn_from_is_said():
    shape, train, validation = task("binary")
    with pytest.raises(TrainingFailed, match="0 to validate on"):
        fit(shape, SPEC, train, validation.take(slice(0, 0)))


def test_a_checkpoint_resumes_its_own_task_only():
    shape, train, validation = task("binary")
    reports = []
    fit(shape, SPEC, train, validation, reports)
    for other in (SPEC.model_copy(update={"seed": 9}), with_trees(depth_max=4)):
        with pytest.raises(TrainingFailed, match="belongs to a training with another"):
            fit(shape, other, train, validation, resume=reports[0].checkpoint)
    with pytest.raises(TrainingFailed, match="damaged"):
        fit(shape, SPEC, train, validation, resume=reports[0].checkpoint[:-1])


def test_workers_that_have_not_joined_do_not_grow_each_their_own_trees():
    shape, train, validation = task("binary")
    with pytest.raises(TrainingFailed, match="2 workers are to grow trees, and 1 have joined"):
        fit(shape, SPEC, train, validation, workers=2)


def test_a_missing_library_is_a_sentence(monkeypatch):
    shape, train, validation = task("binary")
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(TrainingFailed, match=r"install hapredict\[trees\]"):
        fit(shape, SPEC, train, validation)


def test_weights_of_a_network_are_no_trees():
    with pytest.raises(TrainingFailed, match="are no trees"):
        trees_fit.trees_of(pack_arrays((np.zeros((2, 2), np.float32),)))
