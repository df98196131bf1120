"""What the workers report, kept in an actor that outlives them until the supervisor takes it."""

from typing import Any

import ray
from ray.exceptions import RayError

ANSWER_S = 10.0

Event = dict[str, Any]


@ray.remote(num_cpus=0, max_restarts=-1)
class Mailbox:
    """Keeps the reports of the newest start of the workers."""

    def __init__(self) -> None:
        self._start = 0
        self._workers: dict[int, dict[str, Any]] = {}
        self._events: list[Event] = []

    def started(self, start: int, count: int, event: Event, worker: dict[str, Any]) -> None:
        """A worker begins; once all `count` have, there is an event of the kind `start`."""
        if not self._is_new(start):
            return
        self._workers[worker["rank"]] = worker
        if len(self._workers) == count:
            self._add({"kind": "start", **event})

    def told(self, start: int, event: Event) -> None:
        """Something to pass on."""
        if self._is_new(start):
            self._add(event)

    def take(self) -> list[Event]:
        """All events since the last call."""
        events, self._events = self._events, []
        return events

    def _is_new(self, start: int) -> bool:
        """False for messages of workers that others have replaced."""
        if start > self._start:
            self._start = start
            self._workers.clear()
        return start == self._start

    def _add(self, event: Event) -> None:
        workers = [self._workers[rank] for rank in sorted(self._workers)]
        self._events.append({**event, "workers": workers})


def ask(answer: Any) -> Any:
    """An actor's answer, or None where it is gone: reports are worth less than the training."""
    try:
        return ray.get(answer, timeout=ANSWER_S)
    except RayError:
        return None
