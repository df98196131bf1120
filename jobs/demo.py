"""The whole loop on a year of real flights: `make demo`. Ends non-zero if a promise is broken."""

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from hapredict.control.ray_embedded import find_home
from hapredict.drill.ray_demo import Demo
from hapredict.errors import HapredictError
from hapredict.spec import parse_spec

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SEEN = 2
"""Months that the first model learns from; the others are live traffic."""


def main() -> int:
    """Prepare the data and run the demo; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the service up")
    parser.add_argument("--months", type=int, default=12, help="how far into the year to go")
    parser.add_argument("--share", type=float, default=0.2, help="share of all flights")
    options = parser.parse_args()
    home = find_home()
    spec = parse_spec((EXAMPLES / "flight_delay.yaml").read_text(encoding="utf-8"))
    files = flights_script().prepare(home / "data" / "flights", share=options.share)
    demo = Demo(spec, home, group=("origin",))
    try:
        story = demo.go(files[SEEN : options.months], keep=options.keep)
    except HapredictError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if options.keep:
        print("the service stays up: try `hapredict status`, end it with `hapredict down`")
    return 0 if story.kept else 1


def flights_script() -> ModuleType:
    """`examples/prepare_flights.py`, which is a script and no part of the package."""
    path = EXAMPLES / "prepare_flights.py"
    spec = importlib.util.spec_from_file_location("prepare_flights", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main())
