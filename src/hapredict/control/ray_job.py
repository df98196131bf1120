"""What the scripts in `jobs/` share: home, cluster and progress as they are inside a Ray job.

`ray job submit` runs a script on a node of the cluster, in a copy of the working directory that is
removed some time after the job. What an apply starts lives on, so nothing may depend on the copy:
relative paths start at `HAPREDICT_HOME`, and actors and replicas are started without it.
"""

import contextlib
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TextIO

from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from hapredict.control.ray_embedded import HOME_VARIABLE, connect, find_home
from hapredict.control.runs import Record
from hapredict.control.show import Shown
from hapredict.control.specs import home_store, store_url
from hapredict.errors import NotFound, Problem, SpecError
from hapredict.registry.store import Store, open_store
from hapredict.spec import Spec, parse_spec


def spec_file(path: str) -> Spec:
    """The spec in a YAML file. Raises SpecError, also for a file that cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SpecError((Problem(path, f"cannot be read: {error}"),)) from error
    return parse_spec(text, where=path)


def home_of(spec: Spec | None, *paths: str) -> Path:
    """The home for a script that uses these paths and a store.

    The store is that of `spec`, or without one that of a model applied from the home. On a cluster
    it is `HAPREDICT_HOME`. Where that is not set, each node's own `~/.hapredict` will do as long as
    no path is relative. Raises NotFound that says which are.
    """
    if "RAY_ADDRESS" not in os.environ:
        return find_home()
    given = os.environ.get(HOME_VARIABLE, "")
    if Path(given).is_absolute():
        return Path(given)
    store = "models" if spec is None else spec.store or "store"
    relative = [path for path in (store, *paths) if not _stands_alone(path)]
    if not given and not relative:
        return Path.home() / ".hapredict"
    what = f"is {given!r}, which is relative" if given else "is not set"
    needed = f", and {', '.join(map(repr, relative))} would start there" if relative else ""
    raise NotFound(
        f"{HOME_VARIABLE} {what} on the node that runs this job{needed}; set it on every node to a "
        "folder that all of them share, or write absolute paths or URLs (data.sources, store)"
    )


def _stands_alone(path: str) -> bool:
    return "://" in path or Path(path).is_absolute()


def store_of(given: str, *paths: str) -> tuple[Path, Store, str]:
    """Home, store and model of what a script was given: a spec's file, or an applied model's name.

    Raises SpecError, NotFound.
    """
    if given.endswith((".yaml", ".yml")):
        spec = spec_file(given)
        home = home_of(spec, *paths)
        return home, open_store(store_url(spec, home)), spec.name
    home = home_of(None, *paths)
    return home, home_store(home, given), given


def join(home: Path) -> None:
    """Join the cluster, so that what is started from here does not need the job's copy of files.

    A replica that has to fetch the copy could not be replaced once it is gone, or while the head
    is away. Own model families must therefore be installed on the nodes, as hapredict is.

    Comes before the first import of Ray Serve, which reads its flags then: a job has those of the
    node, with which handles do not work in a script.
    """
    os.environ["RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"] = "1"
    importlib.import_module("ray.serve")  # before `connect`, which makes its log quiet
    config = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}"))
    if (config.get("runtime_env") or {}).pop("working_dir", None) is not None:
        os.environ[RAY_JOB_CONFIG_JSON_ENV_VAR] = json.dumps(config)
    connect(home)


def stop_like_ctrl_c() -> None:
    """Have `ray job stop` raise KeyboardInterrupt here.

    Comes after `join`, which has it end the script otherwise.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


@contextlib.contextmanager
def progress(out: TextIO | None = None) -> Iterator[Callable[[str, Record | None], None]]:
    """Tells what goes on: a bar on a terminal, elsewhere a line for each new thing.

    `out` is where lines go instead of the standard error: a notebook's output, say.
    """
    if out is None and sys.stderr.isatty():
        with Shown() as shown:
            yield shown.tell
        return
    stream = sys.stderr if out is None else out
    told: tuple[str, int] = "", 0

    def tell(sentence: str, record: Record | None) -> None:
        nonlocal told
        epoch = record.epoch if record is not None else 0
        if (sentence, epoch) == told:
            return
        line = " ".join(sentence.split())
        if record is not None and epoch != told[1]:
            line += _epoch_of(record)
        told = sentence, epoch
        stream.write(f"  {line}\n")
        stream.flush()

    yield tell


def _epoch_of(record: Record) -> str:
    """How far the run is, to follow a sentence."""
    text = f", epoch {record.epoch} of {record.epochs}"
    if record.validation_loss is not None:
        text += f", validation loss {record.validation_loss:.4f}"
    return text + (f", {record.restarts} restarts" if record.restarts else "")
