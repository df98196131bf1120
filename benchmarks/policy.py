"""When to retrain: policies over a year of real flights, and over two years made of it.

    python benchmarks/policy.py [--years flights,moved] [--families trees,mlp] [--samples 0,1,2]

`hapredict replay` lives each sample (a share of the flights, drawn by its number) day by day from
March on; labels come a day late. `ours` has the defaults of the spec's `control`.

    flights   as they were
    turned    from July on, the flights of one large carrier are late when they were in time
    moved     labels are drawn from one fixed relation of hour, carrier, airport and distance; from
              July on the afternoon makes up most of the flights, and weather changes as it does

Models are kept in --kept, so that a run that was broken off goes on. Samples share a tenth of their
flights and all of their weather: they are not three independent worlds.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from hapredict.data.ray_dataset import columns_of_frame
from hapredict.replay.outcome import Line, Outcome
from hapredict.replay.past import Past
from hapredict.replay.ray_replay import replay
from hapredict.replay.show import ReplayShown
from hapredict.sections import DAY_S
from hapredict.sections_live import ControlSpec
from hapredict.spec import Spec, parse_spec

EXAMPLES = Path(__file__).parents[1] / "examples"
YEARS = ("flights", "turned", "moved")
POLICIES = "never,30d,14d,loss,ours"
START = "2013-03-01"
CHANGE = pd.Timestamp("2013-07-01", tz="UTC")
CARRIER = "B6"


def flights(share: float, sample: int) -> pd.DataFrame:
    """A share of the year's flights."""
    sys.path.insert(0, str(EXAMPLES))
    from prepare_flights import prepare

    with TemporaryDirectory() as folder:
        files = prepare(folder, share=share, seed=sample)
        return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)


def turned(frame: pd.DataFrame) -> pd.DataFrame:
    """One carrier's flights are late from July on when they would have been in time."""
    hit = (frame["carrier"] == CARRIER) & (frame["time_hour"] >= CHANGE)
    return frame.assign(late=frame["late"].where(~hit, 1 - frame["late"]))


def moved(frame: pd.DataFrame, sample: int) -> pd.DataFrame:
    """Other flights from July on, and one relation all year long."""
    chance = np.random.default_rng([7, sample])
    kept = (frame["time_hour"] < CHANGE) | (frame["dep_hour"] >= 13)
    frame = frame[kept | (chance.random(len(frame)) < 0.3)]
    effects = {name: place / 10 - 0.6 for place, name in enumerate(sorted(set(frame["carrier"])))}
    logit = (
        -2.2
        + 0.12 * (frame["dep_hour"] - 12)
        + frame["carrier"].map(effects)
        + 0.4 * (frame["origin"] == "EWR")
        - 0.0002 * frame["distance"]
    )
    late = chance.random(len(frame)) < 1 / (1 + np.exp(-logit))
    return frame.assign(late=late.astype("int64"))


def year(name: str, share: float, sample: int) -> pd.DataFrame:
    """The flights of one of YEARS."""
    frame = flights(share, sample)
    if name == "turned":
        return turned(frame)
    return moved(frame, sample) if name == "moved" else frame


def spec_of(family: str) -> Spec:
    """The example's spec with a family and the defaults of `control`."""
    spec = parse_spec((EXAMPLES / "flight_delay.yaml").read_text(encoding="utf-8"))
    training = spec.training.model_copy(update={"family": family, "workers": 1})
    return spec.model_copy(update={"training": training, "control": ControlSpec()})


def live(name: str, family: str, sample: int, options: argparse.Namespace) -> Outcome:
    """All policies over one sample of one year."""
    spec = spec_of(family)
    past = Past.of(columns_of_frame(year(name, options.share, sample)), spec.data)
    times = past.times(START, step_days=1, delay_days=1)
    with ReplayShown() as shown:
        return replay(
            spec, past, times, options.policies.split(","), kept=options.kept, shown=shown
        )


def rows_of(name: str, family: str, sample: int, outcome: Outcome) -> list[str]:
    """The lines of one sample in the document's table."""
    return [
        f"| {name}, {family}, {sample} | {line.policy} | {line.loss:.4f} | "
        f"{_apart(line, outcome)} | {line.figure:.4f} | {line.trained} | {line.promoted} | "
        f"{line.refused} | {line.rolled_back} | {line.alarms_true}/{line.alarms_false} | "
        f"{line.drift_harmless} | {line.worst_days} |{_after(name, line)}"
        for line in outcome.lines
    ]


def _apart(line: Line, outcome: Outcome) -> str:
    if line.policy == outcome.best_schedule:
        return ""
    return f"{line.delta.mean:+.4f} [{line.delta.low:+.4f}, {line.delta.high:+.4f}]"


def _after(name: str, line: Line) -> str:
    """Days from the change to the first training and to the first model made after it."""
    if name != "turned":
        return ""
    change_s = CHANGE.timestamp()
    told = []
    for action in ("Train", "SetShare", "Promote"):
        after = [e["at_s"] for e in line.events if e["action"] == action and e["at_s"] > change_s]
        told.append(f"{(after[0] - change_s) / DAY_S:.0f}" if after else "never")
    return f" {' / '.join(told)} |"


def main(words: Sequence[str] | None = None) -> None:
    """Live what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--years", default=",".join(YEARS), help="default: %(default)s")
    parser.add_argument("--families", default="trees", help="default: %(default)s")
    parser.add_argument("--samples", default="0", help="default: %(default)s")
    parser.add_argument("--policies", default=POLICIES, help="default: %(default)s")
    parser.add_argument("--share", type=float, default=0.15, help="of flights; %(default)s")
    parser.add_argument(
        "--kept", type=Path, default=Path("out/policy"), help="folder of models; %(default)s"
    )
    options = parser.parse_args(words)
    print(f"{datetime.now(UTC):%Y-%m-%d}; after July 1: days to training / canary / promotion")
    print(
        "| year, family, sample | policy | Brier | less the best schedule [95 %] | AUC | trained | "
        "promoted | dropped | rolled back | alarms true/false | harmless drift | worst days |"
    )
    print("|---" * 12 + "|")
    for name in options.years.split(","):
        for family in options.families.split(","):
            for sample in map(int, options.samples.split(",")):
                outcome = live(name, family, sample, options)
                print("\n".join(rows_of(name, family, sample, outcome)), flush=True)


if __name__ == "__main__":
    main()
