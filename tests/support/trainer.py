"""Trains on the cluster of RAY_ADDRESS and writes down what happens, as a program.

    python -m tests.support.trainer detached|here <run> <storage> <changes to the spec as JSON>

`detached`: by an actor that outlives this program, off the head, as the learner is. `here`: by this
program. Reports go to `<storage>/<run>.events`, the end to `<storage>/<run>.json`.
"""

import hashlib
import json
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import ray

from hapredict.sections import TrainingSpec
from hapredict.training.ray_train import off_head, train_on_ray
from tests.support.learnable import SPEC, learnable, split

SLOW = {"family": "tests.support.slow:slow", "workers": 2, "epochs_max": 60}


def go_on(run, storage, changes):
    """The training, from wherever it stopped, unless it has ended."""
    if (Path(storage) / f"{run}.json").exists():
        return
    shape, examples = learnable(rows=6001)
    spec = TrainingSpec(**{**SPEC.model_dump(), **SLOW, **changes})
    with (Path(storage) / f"{run}.events").open("a") as events:

        def on_epoch(event):
            events.write(json.dumps(event) + "\n")
            events.flush()

        try:
            found = train_on_ray(run, shape, spec, *split(examples), storage, on_epoch)
        except Exception as error:
            ended = {"error": f"{type(error).__name__}: {error}"}
        else:
            ended = {
                **asdict(found),
                "error": "",
                "weights": hashlib.sha256(found.weights).hexdigest(),
                "last_loss": found.history[-1].validation_loss,
                "history": [report.epoch for report in found.history],
            }
    hidden = Path(storage) / f".{run}.json"
    hidden.write_text(json.dumps(ended))
    hidden.rename(Path(storage) / f"{run}.json")


@ray.remote(num_cpus=0, max_restarts=-1)
class Supervisor:
    def __init__(self, *told):
        threading.Thread(target=go_on, args=told, daemon=True).start()

    def ready(self):
        return True


def main(how, run, storage, changes):
    ray.init(namespace="trainer", log_to_driver=False, logging_level="error")
    told = (run, storage, json.loads(changes))
    if how == "here":
        go_on(*told)
    else:
        actor = Supervisor.options(name=run, lifetime="detached", **off_head()).remote(*told)
        ray.get(actor.ready.remote())


if __name__ == "__main__":
    main(*sys.argv[1:])
