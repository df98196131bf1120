"""One controller's loop: look, decide, write it down, act.

    take the lease -> term
        |
        v
    observe ----> the term in the catalog is newer ----> LeaseLost, the loop ends
        |  `----> it is older ----> append TakeOver: from here on the old owner can write nothing
        v
    decide -> Action
        |
        v
    append the next catalog state ----> Conflict: somebody was faster, look again
        |
        v
    start the training, if the action is one
        |
        `----> beat the lease, sleep, look again

The catalog is written first and acted on afterwards. A controller that dies in between leaves
"run-00000042 is in progress" behind, which nobody runs; the next one sees that and starts it under
the same name, and starting a name twice starts it once. Serving is never called: it follows the
catalog.

The lease alone does not shut out a controller that was silent and comes back: it may have checked
its lease just before it lost it. The term in the catalog does. Whatever the old owner decided on
what it saw before, its append meets a Conflict; when it looks again, it finds a newer term.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from hapredict.control.actions import (
    Action,
    EnsureTraining,
    Hold,
    Snapshot,
    TakeOver,
    Train,
    apply,
)
from hapredict.control.decide import decide
from hapredict.errors import Conflict, LeaseLost, TemporaryError
from hapredict.registry.catalog import CatalogState, Entry


class Cluster(Protocol):
    """What the loop needs of the world. Each call may raise TemporaryError."""

    def observe(self) -> tuple[Entry | None, Snapshot]:
        """The latest catalog entry (None before the first), and a snapshot around its state.

        Before the first entry the snapshot holds an empty `CatalogState`.
        """

    def append(
        self,
        previous: Entry | None,
        state: CatalogState,
        *,
        action: str,
        reason: str,
        event_s: float,
    ) -> Entry:
        """Make `state` the entry after `previous`.

        `event_s` is the model's clock; the wall clock and the actor are the cluster's to add.
        Raises Conflict if another entry is there already, LeaseLost if its term is newer.
        """

    def start_training(self, run: str, trigger: str) -> None:
        """Start a run and return at once; a run that somebody runs already is left alone.

        The same name resumes what was saved under it. Also removes a request to retrain, since this
        run answers it.
        """


def step(cluster: Cluster, term: int, decide: Callable[[Snapshot], Action] = decide) -> Action:
    """Look once and do what follows. Returns the action that was taken.

    `term` is that of the caller's lease; `decide` says what follows. Raises LeaseLost if the
    catalog holds a newer term, and Conflict (nothing was done) if another writer was faster.
    """
    entry, seen = cluster.observe()
    if seen.catalog.term > term:
        raise LeaseLost(
            f"model {seen.catalog.model!r} is controlled under term {seen.catalog.term}; "
            f"this controller holds term {term} and must stop"
        )
    seen = replace(seen, sequence=entry.sequence if entry else 0)
    action: Action
    if seen.catalog.term < term:
        action = TakeOver(reason=f"a controller begins term {term}", term=term)
    else:
        action = decide(seen)

    state = apply(action, seen)
    if state != seen.catalog:
        name = type(action).__name__
        cluster.append(entry, state, action=name, reason=action.reason, event_s=seen.time_s)
    match action:
        case Train(run=run, trigger=trigger):
            cluster.start_training(run, trigger)
        case EnsureTraining(run=run):
            cluster.start_training(run, "resumed")
    return action


def run(
    cluster: Cluster,
    *,
    term: int,
    beat: Callable[[], None],
    stop: Callable[[], bool],
    sleep: Callable[[float], None],
    tell: Callable[[Action], None],
    tick_s: float,
    wait_s_max: float,
) -> None:
    """Step for ever, until `stop()` says so.

    `beat` renews the lease before each step. `tell` hears of each action whose reason is new; a
    temporary failure is a Hold that names it. Steps lie `tick_s` apart, after failures in a row
    twice as long each time up to `wait_s_max` (which must stay below the lease's duration), and
    after a Conflict no longer than usual. Raises LeaseLost when somebody else controls the model.
    """
    failures, told = 0, ""
    while not stop():
        wait_s = tick_s
        action: Action
        try:
            beat()
            action = step(cluster, term)
            failures = 0
        except Conflict as error:
            action = Hold(reason=f"another writer was faster: {error}")
        except TemporaryError as error:
            failures += 1
            # the exponent is held so that a long outage cannot overflow the float
            wait_s = min(tick_s * 2.0 ** min(failures, 30), max(wait_s_max, tick_s))
            action = Hold(reason=f"trying again in {wait_s:g} s: {error}")
        if action.reason != told:
            tell(action)
            told = action.reason
        sleep(wait_s)
