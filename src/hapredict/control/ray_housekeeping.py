"""Housekeeping: a thread of the controller's process that moves the journal into the table.

It is the controller's since only one at a time should do it, and it holds the lease; decisions do
not wait for it. Should two do it all the same, each part is still in the table once.
"""

import logging
import threading
import time
from collections.abc import Callable

from hapredict.errors import HapredictError
from hapredict.monitoring.compact import Compactor
from hapredict.registry.store import Store
from hapredict.spec import Spec

LOOK_S = 1.0
TIDY_S = 3600.0

log = logging.getLogger(__name__)


class Housekeeper:
    """Keeps one model's journal short, while `leads()`."""

    def __init__(
        self, store: Store, model: str, spec: Callable[[], Spec], leads: Callable[[], bool]
    ) -> None:
        self._compactor = Compactor(store, model)
        self._model = model
        self._spec = spec
        self._leads = leads
        self._stop = threading.Event()
        self.trouble = ""
        """Why the last round failed; "" if it did not."""

    def start(self) -> None:
        """Begin, in a thread of its own."""
        threading.Thread(target=self._work, name="housekeeping", daemon=True).start()

    def stop(self) -> None:
        """End at the next look."""
        self._stop.set()

    def _work(self) -> None:
        next_s = tidy_s = 0.0
        while not self._stop.wait(LOOK_S):
            if not self._leads():
                continue
            try:
                rules = self._spec().monitoring
                if not next_s:  # the first minutes belong to whoever was waiting for a controller
                    next_s = tidy_s = time.monotonic() + rules.compact_s
                if time.monotonic() < next_s:
                    continue
                next_s = time.monotonic() + rules.compact_s
                id_column = self._spec().data.id
                while self._compactor.move(rules.inference_share, id_column).full:
                    if self._stop.is_set() or not self._leads():
                        break
                self._compactor.clear()
                if time.monotonic() >= tidy_s:
                    tidy_s = time.monotonic() + TIDY_S
                    self._compactor.tidy(time.time(), rules.retention_days)
                self.trouble = ""
            except HapredictError as error:
                self.trouble = str(error)
            except Exception as error:  # the journal may grow, and control must not end
                if self.trouble != str(error):
                    log.exception("housekeeping of %s goes on after a failure", self._model)
                self.trouble = str(error)
