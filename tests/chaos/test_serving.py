"""Whatever befalls replicas under load, no request fails and no answer is wrong."""

import contextlib
import logging
import os
import signal
import threading
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from hapredict.errors import Conflict
from hapredict.registry import catalog as transitions
from hapredict.serving.ray_serve import deploy, replica_states
from hapredict.spec import build_spec
from tests.support.bundles import change
from tests.support.clusters import WAIT_S, eventually, post, publish_people, retired, serve_model
from tests.support.load import Load
from tests.support.people import people, sent, small_spec, write

pytestmark = pytest.mark.timeout(900)

log = logging.getLogger(__name__)

MODEL = "unshaken"
REQUESTS = 200_000
SWAP_S = 2.0
STARVED_BYTES = 1 << 20
"""What a process that starves still gets."""
CALLERS = 24
ROWS = 700
"""As many as HAProxy can hold, and so send again."""


class Answer(msgspec.Struct):
    """What is checked of an answer."""

    predictions: list[dict]


@pytest.fixture(scope="module")
def unshaken(cluster):
    """A model with two published versions, of which nobody but the test chooses."""
    home = Path(cluster.home)
    source = write(home / "data" / "unshaken.csv", people(900, seed=5))
    serving = {"min_replicas": 2, "max_replicas": 2}  # how many there are is for the test to say
    spec = small_spec(MODEL, source, serving=serving)
    publish_people(spec, home)
    with retired(MODEL):
        model = serve_model(spec, home)
        move(model, transitions.pause, "a test decides")
        publish_people(spec, home, 收入=-2.0)
        yield model


def move(model, transition, *values):
    """Append what a transition makes of the state; again if somebody else was faster."""
    while True:
        with contextlib.suppress(Conflict):
            change(model.store, transition, *values, model=MODEL)
            return


class Swaps:
    """Promotes and rolls back without a pause, in a thread."""

    def __init__(self, model):
        self.count = 0
        self._model = model
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(timeout=WAIT_S)

    def _work(self):
        steps = (
            (transitions.shadow, 2),
            (transitions.share, 0.5),
            (transitions.promote,),
            (transitions.roll_back,),
        )
        while not self._stop.is_set():
            for step in steps:
                move(self._model, *step, time.time())
                self._stop.wait(SWAP_S / len(steps))
            self.count += 1


def running():
    return replica_states(MODEL).get("RUNNING", 0)


def kill_one(model):
    victim = min(model.pids())
    os.kill(victim, signal.SIGKILL)
    return {victim}


def hang_one(model):
    victim = min(model.pids())
    os.kill(victim, signal.SIGSTOP)
    return {victim}


def starve_one(model):
    """What this process asks for from now on it does not get: it has no more memory than it has."""
    victim = psutil.Process(min(model.pids()))
    room = victim.memory_info().vms + STARVED_BYTES
    victim.rlimit(psutil.RLIMIT_AS, (room, room))
    return {victim.pid}


def update(model, **serving):
    """New settings are a rolling update, as new code is; the processes that have to go."""
    before = model.pids()
    raw = model.spec.model_dump(mode="json")
    raw["serving"].update(serving)
    deploy(build_spec(raw), model.store.url, model.home)
    return before


def replaced(model, gone, count=2):
    """Wait until those that were hit are gone and `count` others run."""
    eventually(model.pids, lambda pids: not pids & gone and len(pids) >= count, wait_s=240)
    eventually(running, lambda found: found >= count, wait_s=180)


def test_no_request_fails_and_none_is_answered_wrongly(unshaken):
    model, seen = unshaken, set()
    decode = msgspec.json.Decoder(Answer).decode
    body = {"instances": [sent(row) for row in people(1, seed=77)]}

    def check(answer):
        (row,) = decode(answer).predictions
        seen.add((row["model_version"], row["score"]))
        return ""

    told = []
    load = Load(model.predict_url, body, callers=CALLERS, pause_s=0.0, check=check)
    with Swaps(model) as swaps, load:
        for name, harm in (
            ("SIGKILL", lambda: kill_one(model)),
            ("SIGSTOP", lambda: hang_one(model)),
            ("SIGKILL again", lambda: kill_one(model)),
            ("an update", lambda: update(model, rows_max=999)),
        ):
            answered, began_s = load.answered, time.monotonic()
            load.worst_s = 0.0
            replaced(model, harm())
            load.more(2000)
            took_s = time.monotonic() - began_s
            told.append(f"{name}: {load.answered - answered} answered in {took_s:.0f} s, ")
            told[-1] += f"the slowest took {load.worst_s:.2f} s; faults {load.faults[:3]}"
        update(model, min_replicas=4, max_replicas=4)
        eventually(lambda: running() == 4, wait_s=180)
        load.more(2000)
        update(model, min_replicas=1, max_replicas=1)
        eventually(lambda: running() == 1, wait_s=180)
        load.more(max(2000, REQUESTS - load.answered), wait_s=300)
    told.append(f"{load.answered} answered in all, {swaps.count} times promoted and rolled back")
    log.info("\n".join(told))
    assert load.faults == [], told
    assert load.answered >= REQUESTS
    assert swaps.count > 5
    assert seen == {(version, score_of(model, version, body)) for version in (1, 2)}


def test_a_replica_without_memory_fails_no_request(unshaken):
    model = unshaken
    update(model, min_replicas=2, max_replicas=2)
    eventually(lambda: running() == 2, wait_s=180)
    gone, began_s = starve_one(model), time.monotonic()
    # more rows than it ever had: it would need more memory than it has
    body = {"instances": [sent(row) for row in people(ROWS, seed=78)]}
    with Load(model.predict_url, body, callers=4, pause_s=0.01) as load:
        replaced(model, gone)
        load.more(100)
    took_s = time.monotonic() - began_s
    told = f"no memory: {load.answered} answered in {took_s:.0f} s, "
    told += f"the slowest took {load.worst_s:.2f} s; faults {load.faults[:3]}"
    log.info(told)
    assert load.faults == [], told


def score_of(model, version, body):
    """What a version says when it is asked by itself."""
    url = model.predict_url.replace(f"{MODEL}:predict", f"{MODEL}/versions/{version}:predict")
    answer = post(url, body)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"][0]["score"]
