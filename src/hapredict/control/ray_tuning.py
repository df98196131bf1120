"""What `hapredict tune` does: a search that outlives whoever asked for it.

The tuner is a detached actor. It keeps nothing that matters in memory: killed, it is started again
by Ray, reads what was asked for from the store, and goes on from the trials that are on record
there. Whoever asked reads along, may leave, and may stop it; asking for the same again takes it up.
"""

import contextlib
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from hapredict.control import tuning
from hapredict.control.ray_embedded import NAMESPACE
from hapredict.control.ray_search import LOOK_S, Search
from hapredict.control.specs import store_url
from hapredict.control.tuning import Progress, Request
from hapredict.errors import (
    ClusterUnavailable,
    Conflict,
    HapredictError,
    TemporaryError,
    TimedOut,
    TrainingFailed,
)
from hapredict.registry.store import Store, open_store
from hapredict.spec import Spec
from hapredict.training.space import space_of

log = logging.getLogger(__name__)

STARTS_MAX = 5
"""Starts of a search after troubles that were not its own, such as a store without answer."""
STOP_S = 60.0

Show = Callable[[Progress], None]


def tune(spec: Spec, home: Path, show: Show, *, wait_s: float) -> Progress:
    """Search for better settings of `spec.training` and wait for the outcome.

    The search goes on where an earlier one for the same spec and data ended. An interrupt stops it;
    its trials stay on record. Raises TimedOut after `wait_s` (it goes on alone), Conflict while
    another search of the model runs, TrainingFailed if it cannot be done, SpecError,
    StoreUnavailable.
    """
    space_of(spec.training, spec.tuning)  # what is wrong with it is told at once
    deadline_s = time.monotonic() + wait_s
    url = store_url(spec, home)
    store = open_store(url)
    request = Request(spec)
    try:
        _begin(store, request, url, home)
        return _waited(store, request, url, home, show, deadline_s)
    except KeyboardInterrupt:
        if _running(spec.name) == request.id:
            stop(spec.name)
            _stopped(store, request, show)
        raise


def stop(model: str) -> bool:
    """Stop the search of a model: its trials end, what is on record stays. False if none runs."""
    try:
        return bool(ray.get(_find(model).stop.remote(), timeout=STOP_S))
    except (ValueError, RayError):
        return False


def _begin(store: Store, request: Request, url: str, home: Path) -> None:
    model = request.spec.name
    running = _running(model)
    if running == request.id:
        return
    if running is not None:
        raise Conflict(
            f"a search for {model!r} with another spec runs; wait for it, or take it up with its "
            "spec and stop it with Ctrl-C"
        )
    tuning.ask(store, request, time.time())
    _start(model, url, home)


def _running(model: str) -> str | None:
    """The id of what is searched for a model now; None if nothing is."""
    try:
        return str(ray.get(_find(model).request.remote(), timeout=STOP_S))
    except (ValueError, RayError):
        return None


def _waited(
    store: Store, request: Request, url: str, home: Path, show: Show, deadline_s: float
) -> Progress:
    model = request.spec.name
    while True:
        progress = tuning.noted(store, model)
        if progress is None or progress.request != request.id:
            raise Conflict(f"another search for {model!r} has begun meanwhile")
        show(progress)
        if progress.state == "failed":
            raise TrainingFailed(f"the search for {model!r} failed: {progress.detail}")
        if progress.state == "stopped":
            raise TrainingFailed(
                f"the search for {model!r} was stopped by somebody else; the same command goes on"
            )
        if progress.state == "finished":
            return progress
        if not _exists(model):
            # its cluster went away, or it ended between our look and this one
            again = tuning.noted(store, model)
            if again is not None and again.state == "running":
                _start(model, url, home)
        if time.monotonic() > deadline_s:
            raise TimedOut(
                f"the search for {model!r} has not ended yet: {progress.detail}; it goes on alone"
            )
        time.sleep(LOOK_S)


def _stopped(store: Store, request: Request, show: Show) -> None:
    until_s = time.monotonic() + STOP_S
    while time.monotonic() < until_s:
        progress = tuning.noted(store, request.spec.name)
        if progress is None or progress.request != request.id:
            return
        # while its process is there, the same command would take it for a search that goes on
        if progress.state != "running" and not _exists(request.spec.name):
            return
        show(progress)
        time.sleep(LOOK_S)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3)
class Tuner:
    """Runs the search that the store asks for, and ends with it."""

    def __init__(self, model: str, store_url: str, home: str) -> None:
        self._model = model
        self._store = open_store(store_url)
        self._home = Path(home)
        self._request = tuning.asked(self._store, model)
        noted = tuning.noted(self._store, model)
        # killed after its last word: what ended is not begun again
        self._over = noted is not None and noted.state != "running"
        self._search = Search(self._store, self._home, self._request)
        threading.Thread(target=self._work, name="search", daemon=True).start()

    def request(self) -> str:
        """The id of what is searched."""
        return self._request.id

    def stop(self) -> bool:
        """End the trials and then the search."""
        self._search.stopping.set()
        return True

    def pid(self) -> int:
        """The process, for drills."""
        return os.getpid()

    def _work(self) -> None:
        try:
            if not self._over:
                self._go()
        finally:
            # nobody may be there to end it
            with contextlib.suppress(ValueError, RayError):
                ray.kill(_find(self._model), no_restart=True)

    def _go(self) -> None:
        for start in range(1, STARTS_MAX + 1):
            with _ending(self._search, last=start == STARTS_MAX) as ended:
                self._search.go()
            if ended():
                return
            time.sleep(2.0**start)


@contextlib.contextmanager
def _ending(search: Search, *, last: bool) -> Iterator[Callable[[], bool]]:
    """Puts on record how a search ended; answers whether it did, or deserves another start."""
    over = True
    try:
        yield lambda: over
    except TemporaryError as error:
        over = last
        if last:
            _fail(search, str(error))
    except HapredictError as error:
        _fail(search, str(error))
    except Exception as error:  # whatever breaks a search must be told to who waits for it
        log.exception("the search for %s failed", search.spec.name)
        _fail(search, f"unforeseen: {traceback.format_exception_only(error)[-1].strip()}")


def _fail(search: Search, why: str) -> None:
    with contextlib.suppress(TemporaryError):
        search.tell(state="failed", detail=why)


def _find(model: str) -> Any:
    """The tuner of a model. Raises ValueError if there is none."""
    return ray.get_actor(_name(model), namespace=NAMESPACE)


def _exists(model: str) -> bool:
    try:
        _find(model)
    except ValueError:
        return False
    return True


def _start(model: str, url: str, home: Path) -> None:
    actor = Tuner.options(  # type: ignore[attr-defined]
        name=_name(model), namespace=NAMESPACE, lifetime="detached", get_if_exists=True
    ).remote(model, url, str(home))
    try:
        ray.get(actor.request.remote(), timeout=STOP_S)
    except RayError as error:
        raise ClusterUnavailable(f"the search for {model!r} cannot start: {error}") from error


def _name(model: str) -> str:
    return f"hapredict:{model}:tuner"
