"""river's detectors on the streams of `detectors.py`, in the environment of `make bench-drift`.

    python benchmarks/drift_peers.py DATA.npz alarms|delay|loss NAME [QUIET]

`values` is [streams, values]. `alarms` counts alarms over all streams; `delay` and `loss` take each
stream as one run that changes after QUIET values and print the median delay.
"""

import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from river import drift

VALUES: dict[str, Callable[[], Any]] = {
    "ADWIN": drift.ADWIN,
    "PageHinkley": drift.PageHinkley,
}
LOSSES: dict[str, Callable[[], Any]] = {
    **VALUES,
    "DDM": drift.binary.DDM,
    "HDDM_A": drift.binary.HDDMA,
}


def alarms(make: Callable[[], Any], values: Any) -> int:
    """Alarms over one stream."""
    detector, raised = make(), 0
    for value in values:
        detector.update(value)
        raised += detector.drift_detected
    return raised


def delay(make: Callable[[], Any], values: Any, quiet: int) -> float:
    """Values after `quiet` until an alarm; alarms before are passed over."""
    detector = make()
    for place, value in enumerate(values):
        detector.update(value)
        if detector.drift_detected and place >= quiet:
            return place + 1 - quiet
    return float("inf")


def main() -> None:
    """Print a line for each detector."""
    path, what, name, *more = sys.argv[1:]
    streams = np.load(path)["values"]
    for peer, make in (LOSSES if what == "loss" else VALUES).items():
        if what == "alarms":
            found = sum(alarms(make, values.tolist()) for values in streams)
            told = f"{found} in {streams.shape[1]:,} rows"
        else:
            quiet = int(more[0])
            if what == "loss":
                streams_of = [list(map(bool, values)) for values in streams]
            else:
                streams_of = [values.tolist() for values in streams]
            found = statistics.median(delay(make, values, quiet) for values in streams_of)
            told = f"{found:.0f}"
        sys.stdout.write(f"  {name:<12} river {peer}: {told}\n")


if __name__ == "__main__":
    main()
