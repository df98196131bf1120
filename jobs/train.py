"""A training of an applied model, waited for: 0 it passed its gates, 3 a gate refused it.

    ray job submit --working-dir . -- python jobs/train.py examples/flight_delay.yaml

It learns by the spec that was applied last; the new version still has to prove itself on live
traffic. 1: it failed. 4: it did not end in time, and goes on alone. `ray job stop` ends the
training; the same job takes it up from its last checkpoint.
"""

import argparse
import sys

from hapredict.control import ray_job
from hapredict.errors import HapredictError


def main() -> int:
    """Ask for a training and wait; the exit code."""
    parser = argparse.ArgumentParser(description="Train an applied model and wait for the verdict.")
    parser.add_argument("spec", help="YAML file, or the name of an applied model")
    parser.add_argument("--reason", default="asked for by a job", help="kept in the history")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds to wait")
    options = parser.parse_args()
    try:
        home, store, model = ray_job.store_of(options.spec)
        ray_job.join(home)
        ray_job.stop_like_ctrl_c()
        from hapredict.control.ray_retrain import retrain

        with ray_job.progress() as tell:
            record = retrain(store, model, options.reason, tell, wait_s=options.timeout)
    except HapredictError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("cancelled; the same job goes on from the last checkpoint", file=sys.stderr)
        return 130
    print(f"{record.run}: {record.detail}")
    print(f"verdict: {record.verdict.outcome}: {record.verdict.reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
