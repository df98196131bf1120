"""Batch prediction: the champion's answers to all rows of Parquet or CSV files, as Parquet.

    ray job submit --working-dir . -- python jobs/batch_predict.py flight_delay IN OUT

0: all rows are answered; `_hapredict.json` in OUT says how many, by which version, and the hash of
each file. Killed, failed or stopped (`ray job stop`, 130) it keeps what it has written: the same
job again scores what is left. Another input, version or setting into the same folder is refused.
"""

import argparse
import json
import sys

from hapredict.control import ray_job
from hapredict.control.specs import read_spec
from hapredict.errors import HapredictError
from hapredict.serving.batch_plan import PART_ROWS


def main() -> int:
    """Predict; the exit code."""
    parser = argparse.ArgumentParser(description="Relative paths start at HAPREDICT_HOME.")
    parser.add_argument("model", help="YAML file, or the name of an applied model")
    parser.add_argument("input", help="Parquet or CSV: file, folder, glob or URL")
    parser.add_argument("output", help="folder or URL; new, empty, or of the same prediction")
    parser.add_argument("--version", type=int, help="ask this version [the champion]")
    parser.add_argument("--keep", default="", help="columns to keep beside id and time: a,b")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier prediction")
    parser.add_argument("--actors", type=int, default=2, help="processes that score, at most")
    parser.add_argument("--part-rows", type=int, default=PART_ROWS, help="rows a file of OUT")
    parser.add_argument("-o", dest="format", choices=("text", "json"), default="text")
    given = parser.parse_args()
    try:
        home, store, model = ray_job.store_of(given.model, given.input, given.output)
        ray_job.join(home)
        ray_job.stop_like_ctrl_c()
        from hapredict.control.show_batch import BatchShown
        from hapredict.serving.ray_batch import Asked, predict_files

        asked = Asked(
            source=given.input,
            output=given.output,
            version=given.version,
            keep=tuple(filter(None, given.keep.split(","))),
            overwrite=given.overwrite,
            actors=given.actors,
            part_rows=given.part_rows,
        )
        with BatchShown() as shown:
            done = predict_files(store, read_spec(store, model), asked, home, shown.show)
    except HapredictError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same job goes on where it stopped", file=sys.stderr)
        return 130
    summary = {**done.summary, "output": done.output}
    print(json.dumps(summary) if given.format == "json" else f"{done.sentence()}\n{done.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
