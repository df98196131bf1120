"""Every fault of levels 1 to 3 on a cluster of three nodes on this machine: `make drills`.

Writes the table in docs/availability.md anew, and beside it drills.json and drills.html in
hapredict's home. Ends with 0 if the level held, 1 if it did not, 3 if that could not be told.
"""

import argparse
import json
import os
import platform
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

from demo import EXAMPLES, flights_script

from hapredict.control.ray_embedded import find_home
from hapredict.drill.drill_report import page, text
from hapredict.drill.faults import faults_of
from hapredict.drill.ray_drill import Plan
from hapredict.errors import HapredictError
from hapredict.spec import Spec, build_spec, parse_spec
from hapredict.testing.lab_table import markdown, replaced
from hapredict.testing.ray_lab import Lab
from hapredict.testing.ray_lab_drill import drill_lab

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "availability.md"
SHARE = 0.05
"""Of all flights: what is broken here is not what was learned."""
CODES = {"held": 0, "not held": 1, "not enough load to tell": 3}


def main() -> int:
    """Make the lab, break it, write down what callers saw; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--level", type=int, default=3)
    parser.add_argument("--fault", action="append", default=[], help="only this one")
    parser.add_argument("--objective", type=float, default=99.95, help="percent")
    parser.add_argument("--duration", type=float, default=120.0, help="seconds a fault at most")
    parser.add_argument("--write", action="store_true", help="write docs/availability.md")
    options = parser.parse_args()
    folder = find_home() / "lab"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with Lab(folder, workers=2, cpus=6) as lab:
            print("starting a head and two workers, each in a network of its own", flush=True)
            lab.start()
            flights_script().prepare(lab.home / "data" / "flights", share=SHARE)
            done = drill_lab(
                lab,
                _spec(options.level),
                level=options.level,
                names=options.fault or faults_of(options.level),
                plan=Plan(options.objective, duration_s=options.duration),
                tell=lambda said: print(f"{datetime.now(UTC):%H:%M:%S} {said}", flush=True),
            )
    except HapredictError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    (folder / "drills.json").write_text(json.dumps(done.to_json(), indent=1), encoding="utf-8")
    (folder / "drills.html").write_text(page(done), encoding="utf-8")
    print(text(done))
    if options.write:
        where = f"{os.cpu_count()} processors, {platform.system()} {platform.machine()}"
        table = markdown(done, where)
        DOCUMENT.write_text(replaced(DOCUMENT.read_text(encoding="utf-8"), table), encoding="utf-8")
    return CODES[done.verdict]


def _spec(level: int) -> Spec:
    """The example's model, whose rows happen when they are asked for."""
    spec = parse_spec((EXAMPLES / "flight_delay.yaml").read_text(encoding="utf-8"))
    raw = spec.model_dump(mode="json", exclude_unset=True)
    raw["monitoring"] = {"report_s": 2}
    raw["control"] = {}
    raw["availability"] = {"level": min(level, 3)}
    return build_spec(raw)


if __name__ == "__main__":
    sys.exit(main())
