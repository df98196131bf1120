"""Time to quality on real flights: hapredict's own rules against `fit(batch_size=32)`.

    .venv/bin/python benchmarks/train_quality.py

Both train the default network on the same encoded rows from the same first weights. `fit` has
Keras' defaults, Adam at 0.001 and 32 rows a step, and gets EPOCHS passes; its lowest validation
loss is the mark. The time is that of the processor, one core, from before the network is built to
the end of the first pass at or below the mark; compiling is part of it, and is told apart. Then the
area under the ROC curve on flights set aside, in float32 and in bfloat16, over SEEDS seeds.
"""

import os
import statistics
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from train_task import pin

SEEDS, FIT_SEEDS = 5, 3
EPOCHS = 5


@dataclass
class Run:
    """How a validation loss fell."""

    began_s: float = field(default_factory=time.process_time)
    started_s: float = field(default_factory=time.perf_counter)
    idle_s: float = 0.0
    passes: list[tuple[float, float, float]] = field(default_factory=list)
    """CPU seconds, wall seconds, validation loss."""
    auc: float = float("nan")

    def add(self, loss: float) -> None:
        wall_s = time.perf_counter() - self.started_s
        self.passes.append((time.process_time() - self.began_s - self.idle_s, wall_s, loss))

    @property
    def best(self) -> float:
        return min(loss for _, _, loss in self.passes)

    def until(self, mark: float) -> tuple[float, float] | None:
        """CPU and wall seconds until a loss of `mark` or less."""
        return next((line[:2] for line in self.passes if line[2] <= mark), None)

    @property
    def pass_s(self) -> float:
        """CPU seconds of a pass, without the first, which compiles."""
        times = [line[0] for line in self.passes]
        return statistics.median(np.diff(times))


def drawn(made: Any) -> Any:
    """The same rows, parted by chance: in time the loss moves with the weather; a mark is luck."""
    from hapredict.training.network import Examples

    parts = (made.train, made.validation, made.test)
    together = Examples(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("numbers", "categories", "labels")
        )
    )
    order = np.random.default_rng(0).permutation(together.rows)
    cuts = np.cumsum([part.rows for part in parts])[:-1]
    names = ("train", "validation", "test")
    return replace(made, **dict(zip(names, map(together.take, np.split(order, cuts)), strict=True)))


def by_rules(made: Any, seed: int, precision: str) -> Run:
    """`fit` of hapredict with what a spec says that says nothing."""
    from hapredict.sections import TrainingSpec
    from hapredict.training.feed import Resident
    from hapredict.training.keras_export import logits
    from hapredict.training.keras_fit import fit
    from hapredict.training.metrics import auc

    spec = TrainingSpec(seed=seed, precision=precision)
    run = Run()
    fitted = fit(
        made.shape,
        spec,
        Resident(made.train, spec.shuffle_rows),
        made.validation,
        on_epoch=lambda report: run.add(report.validation_loss),
    )
    run.auc = auc(made.test.labels, logits(made.shape, spec, fitted.weights, made.test)[:, 0])
    return run


def by_fit(made: Any, seed: int) -> Run:
    """`fit` of Keras as the tutorials have it."""
    import keras

    from hapredict.sections import TrainingSpec
    from hapredict.training.keras_families import build, model_inputs

    def data(part: Any) -> tuple[Any, Any]:
        return model_inputs(made.shape, part.numbers, part.categories), part.labels

    run = Run()
    model = build(made.shape, TrainingSpec(seed=seed))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss)

    def judge(*_: Any) -> None:
        began_s = time.process_time()
        found = model.evaluate(*data(made.validation), batch_size=8192, verbose=0)
        run.idle_s += time.process_time() - began_s
        run.add(float(found))

    judge_each = keras.callbacks.LambdaCallback(on_epoch_end=judge)
    model.fit(*data(made.train), batch_size=32, epochs=EPOCHS, verbose=0, callbacks=[judge_each])
    return run


def main() -> None:
    """Print both tables."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    pin(max(os.sched_getaffinity(0)))
    from datasets import prepare

    from hapredict.training.keras_fit import use_threads

    use_threads(1)
    made = drawn(prepare("flights"))
    print(f"\nTime to quality: {made.train.rows:,} flights, {made.validation.rows:,} to judge by\n")
    runs = {
        precision: [by_rules(made, seed, precision) for seed in range(SEEDS)]
        for precision in ("float32", "bfloat16")
    }
    fits = [by_fit(made, seed) for seed in range(FIT_SEEDS)]
    print("| seed | mark | fit: CPU s, wall s | rules: CPU s, wall s | rules, bfloat16 |")
    print("|---|---|---|---|---|")
    for seed, fitted in enumerate(fits):
        cells = [
            _cell(run.until(fitted.best)) for run in (fitted, *(r[seed] for r in runs.values()))
        ]
        print(f"| {seed} | {fitted.best:.4f} | {' | '.join(cells)} |")
    for precision, found in runs.items():
        ratios = [
            fitted.until(fitted.best)[0] / reached[0]
            for fitted, run in zip(fits, found, strict=False)
            if (reached := run.until(fitted.best))
        ]
        passes = statistics.median(run.pass_s for run in fits)
        ours = statistics.median(run.pass_s for run in found)
        first = statistics.median(run.passes[0][0] - run.pass_s for run in found)
        print(
            f"{precision}: reached by {len(ratios)} of {len(fits)}, median "
            f"{statistics.median(ratios) if ratios else float('nan'):.1f} times faster; a pass "
            f"{passes:.2f} against {ours:.2f} CPU s, {passes / ours:.1f} times; "
            f"start {first:.1f} s; lowest loss {statistics.mean(run.best for run in found):.4f}"
        )
    print("\nArea under the ROC curve on flights set aside\n")
    for precision, found in runs.items():
        scores = [run.auc for run in found]
        each = ", ".join(f"{score:.4f}" for score in scores)
        spread = statistics.stdev(scores)
        print(f"{precision}: mean {statistics.mean(scores):.4f}, deviation {spread:.4f} ({each})")
    pairs = zip(*runs.values(), strict=True)
    differences = [low.auc - high.auc for high, low in pairs]
    error = statistics.stdev(differences) / len(differences) ** 0.5
    print(f"bfloat16 - float32: {statistics.mean(differences):+.4f}, standard error {error:.4f}")


def _cell(reached: tuple[float, float] | None) -> str:
    return "not reached" if reached is None else f"{reached[0]:.1f}, {reached[1]:.1f}"


if __name__ == "__main__":
    main()
