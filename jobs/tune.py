"""`hapredict tune` as a Ray job: better settings, proven on the hold-out, as YAML on the output.

    ray job submit --working-dir . -- python jobs/tune.py examples/flight_delay.yaml

0: the search has ended, with better settings or without; the first line says which. 4: it did not
end in time, and goes on alone. `ray job stop` stops the search; the same job takes it up again.
The working directory of a job is a copy, so nothing is written into the spec.
"""

import argparse
import json
import sys

from hapredict.control import ray_job
from hapredict.errors import HapredictError


def main() -> int:
    """Search and wait; the exit code."""
    parser = argparse.ArgumentParser(description="Search for better settings of `training`.")
    parser.add_argument("spec", help="YAML file")
    parser.add_argument("--trials", type=int, default=None, help="instead of tuning.trials")
    parser.add_argument("--timeout", type=float, default=86_400.0, help="seconds to wait")
    parser.add_argument("-o", dest="output", choices=("text", "json"), default="text")
    options = parser.parse_args()
    try:
        spec = ray_job.spec_file(options.spec)
        if options.trials is not None:
            tuning = spec.tuning.model_copy(update={"trials": options.trials})
            spec = spec.model_copy(update={"tuning": tuning})
        home = ray_job.home_of(spec, *spec.data.sources)
        ray_job.join(home)
        ray_job.stop_like_ctrl_c()
        from hapredict.control.ray_tuning import tune
        from hapredict.control.show_tuning import TuningShown, summary_of, summary_text

        with TuningShown() as shown:
            done = tune(spec, home, shown.show, wait_s=options.timeout)
    except HapredictError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same job goes on", file=sys.stderr)
        return 130
    summary = summary_of(done)
    print(json.dumps(summary, indent=1) if options.output == "json" else summary_text(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
