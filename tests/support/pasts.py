"""A small past whose world may change, and a spec that learns it in a blink."""

from datetime import UTC, datetime

import numpy as np

from hapredict.replay.learner import CachedLearner
from hapredict.replay.past import Past
from hapredict.replay.policies import find_policy
from hapredict.replay.world import World
from hapredict.sections import DAY_S
from hapredict.spec import build_spec

START_S = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
ROWS_A_DAY = 40


def columns_of_past(days=60, seed=0, turns=None, moves=None):
    """Columns of a table: label `bad` follows `x`, and from day `turns` on most rows are bad.

    From day `moves` on another mix of `x` is asked for, and the relation stays.
    """
    chance = np.random.default_rng(seed)
    day = np.sort(chance.random(days * ROWS_A_DAY)) * days
    x = chance.normal(size=len(day))
    if moves is not None:
        x = np.where(day >= moves, 0.6 * x + 1.2, x)
    worse = 0.0 if turns is None else np.where(day >= turns, 3.0, 0.0)
    bad = chance.random(len(day)) < 1 / (1 + np.exp(-3 * x - worse))
    return {
        "x": x,
        "shop": chance.choice(["a", "b", "c"], len(day)).astype(object),
        "at": START_S + day * DAY_S,
        "order": np.array([f"o{row}" for row in range(len(day))], object),
        "bad": bad.astype(np.int64),
    }


def spec_of_past(**sections):
    """The spec of `columns_of_past`; `sections` overrule single keys."""
    raw = {
        "data": {
            "sources": ["orders.csv"],
            "target": "bad",
            "time": "at",
            "id": "order",
            "columns": {"at": "time"},
        },
        "training": {
            "family": "trees",
            "trees": {"rounds_max": 12, "depth_max": 2, "learning_rate": 0.4},
        },
        "monitoring": {"window_rows": 1000, "false_alarm_days": 90},
        "control": {"labels_min": 100, "shadow_labels_min": 50, "cooldown_days": 3},
    }
    merged = {key: {**raw.get(key, {}), **sections.get(key, {})} for key in {*raw, *sections}}
    return build_spec({"name": "orders", **merged})


def past_of(spec=None, **world):
    return Past.of(columns_of_past(**world), (spec or spec_of_past()).data)


def live(policy, past, folder, spec=None, learner=None, start="0.25", **times):
    """What came of a policy over a past."""
    spec = spec or spec_of_past()
    times = past.times(start, **{"step_days": 1, "delay_days": 1, **times})
    learner = learner or CachedLearner(past, spec)
    folder.mkdir(parents=True, exist_ok=True)
    return World(past, times, spec, find_policy(policy, spec.control), learner, folder).live()
