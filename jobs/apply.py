"""`hapredict apply` as a Ray job, with its exit codes.

    ray job submit --working-dir . -- python jobs/apply.py examples/flight_delay.yaml

Relative paths in the spec start at `HAPREDICT_HOME` of the nodes, not at the working directory.
"""

import argparse
import sys

from hapredict.control import ray_job
from hapredict.control.show import lines
from hapredict.errors import HapredictError


def main() -> int:
    """Apply a spec; the exit code."""
    parser = argparse.ArgumentParser(description="Train if needed, deploy, watch and lead.")
    parser.add_argument("spec", help="YAML file")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds to wait")
    options = parser.parse_args()
    try:
        spec = ray_job.spec_file(options.spec)
        home = ray_job.home_of(spec, *spec.data.sources)
        ray_job.join(home)
        from hapredict.control.ray_apply import apply

        with ray_job.progress() as tell:
            done = apply(spec, home, tell, wait_s=options.timeout)
    except HapredictError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    state = done.entry.state
    shown = {"model": done.model, "url": done.url, "champion": state.champion, "stage": state.stage}
    print(lines(shown))
    return 0


if __name__ == "__main__":
    sys.exit(main())
