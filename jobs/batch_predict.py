"""Batch prediction: the champion's answers to all rows of Parquet or CSV files, as Parquet.

ray job submit --working-dir . -- python jobs/batch_predict.py flight_delay IN OUT
"""

import argparse
import sys

from hapredict.control import ray_job
from hapredict.control.specs import read_spec
from hapredict.errors import HapredictError
from hapredict.serving.ray_batch import predict_files


def main() -> int:
    """Predict; the exit code."""
    parser = argparse.ArgumentParser(description="Relative paths start at HAPREDICT_HOME.")
    parser.add_argument("model", help="YAML file, or the name of an applied model")
    parser.add_argument("input", help="Parquet or CSV: file, folder, glob or URL")
    parser.add_argument("output", help="folder or URL; must be empty or new")
    parser.add_argument("--version", type=int, help="ask this version [the champion]")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier prediction")
    parser.add_argument("--actors", type=int, default=2, help="processes that score, at most")
    given = parser.parse_args()
    more = {"version": given.version, "overwrite": given.overwrite, "actors": given.actors}
    try:
        home, store, model = ray_job.store_of(given.model, given.input, given.output)
        ray_job.join(home)
        spec = read_spec(store, model)
        done = predict_files(store, spec, given.input, given.output, home, **more)
    except HapredictError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{done.sentence()}\n{done.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
