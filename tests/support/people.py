"""Made-up people and whether their order ends badly: small data with Unicode columns, and specs."""

import csv
import math
from datetime import UTC, datetime

import numpy as np

from hapredict.data.schema import Column, Schema
from hapredict.sections import DAY_S
from hapredict.spec import build_spec

START_S = datetime(2024, 1, 1, tzinfo=UTC).timestamp()
CITIES = ("Zürich", "北京", "Lyon")
SCHEMA = Schema(
    features=(
        Column("性别", "category"),
        Column("收入", "number"),
        Column("age", "number"),
        Column("city", "category"),
    ),
    target="bad",
    task="binary",
    classes=("0", "1"),
    time="time",
    id="order",
)
FIELDS = ("性别", "收入", "age", "city", "time", "order")
"""What a request sends."""


def people(rows=1000, days=10.0, *, start_s=START_S, seed=0, raised=0.0):
    """Rows in the order of time, as JSON values with the label `bad`.

    Low income is bad, and so is a missing age. `raised`: by how much all incomes have risen, and
    with them what counts as low.
    """
    chance = np.random.default_rng(seed)
    moments = start_s + np.sort(chance.random(rows)) * days * DAY_S
    income = chance.normal(size=rows)
    old = chance.random(rows) < 0.2
    signal = -2.5 * income + 1.5 * old - 0.3
    bad = chance.random(rows) < 1 / (1 + np.exp(-signal))
    return [
        {
            "性别": ("女", "男")[int(chance.integers(2))],
            "收入": round(5000 + raised + 1500 * float(income[place]), 1),
            "age": None if old[place] else int(chance.integers(18, 80)),
            "city": CITIES[int(chance.integers(3))],
            "time": datetime.fromtimestamp(math.floor(moments[place]), UTC).isoformat(),
            "order": f"o{seed}-{place}",
            "bad": int(bad[place]),
        }
        for place in range(rows)
    ]


def sent(row):
    """What a request sends of a row."""
    return {name: row[name] for name in FIELDS}


def write(path, rows):
    """The rows as CSV; the path as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def small_spec(name, source, **sections):
    """A spec that trains in seconds; `sections` overrule single keys."""
    raw = {
        "data": {"sources": [str(source)], "target": "bad", "time": "time", "id": "order"},
        "training": {"epochs_max": 30, "hidden": [16], "batch_rows": 64, "learning_rate": 0.01},
        "serving": {"max_replicas": 2, "num_cpus": 0.5, "catalog_poll_s": 0.2},
        "monitoring": {"report_s": 0.2},
        "control": {"tick_s": 0.2, "lease_s": 4},
    }
    merged = {key: {**raw.get(key, {}), **sections.get(key, {})} for key in {*raw, *sections}}
    return build_spec({"name": name, **merged})
