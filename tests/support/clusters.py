"""Fixtures on a real cluster: one cluster a process, and one small model that serves on it.

Each conftest that imports them makes fixtures of its own, so what they share is kept with the
session: the first that asks starts it, and it ends with the session's last test. Tests run in two
processes side by side, each with a cluster of its own.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from hapredict.control.specs import home_store, store_url
from hapredict.monitoring.report import MonitorReport
from hapredict.registry.catalog import Catalog
from hapredict.registry.store import open_store
from hapredict.spec import Spec
from tests.support.bundles import publish_linear
from tests.support.people import SCHEMA, people, sent, small_spec, write

CPUS = 8
"""Logical: how many replicas, workers and tasks fit beside each other."""

MODEL = "orders"
APPLY_S = 180

WAIT_S = 60
"""For what takes a second on a quiet machine."""

_SHARED = pytest.StashKey[dict]()


@dataclass(frozen=True)
class Served:
    """A model that was applied and answers."""

    url: str
    spec: Spec
    home: Path

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def predict_url(self) -> str:
        return f"{self.url}/v1/models/{self.name}:predict"

    @property
    def feedback_url(self) -> str:
        return f"{self.url}/v1/models/{self.name}:feedback"

    @property
    def store(self):
        return home_store(self.home, self.name)

    @property
    def catalog(self):
        return Catalog(self.store, self.name)

    @property
    def state(self):
        return self.catalog.latest().state

    def predict(self, rows):
        """The predictions for rows of `people`, by HTTP."""
        answer = post(self.predict_url, {"instances": [sent(row) for row in rows]})
        assert answer.status_code == 200, answer.text
        return answer.json()["predictions"]

    def feedback(self, predictions, rows):
        """Send the truth about rows that were predicted; the number of acknowledged labels."""
        labels = [
            {"prediction_id": one["prediction_id"], "label": row["bad"]}
            for one, row in zip(predictions, rows, strict=True)
        ]
        answer = post(self.feedback_url, {"labels": labels})
        assert answer.status_code == 200, answer.text
        return answer.json()["acknowledged"]

    def report(self):
        """What the monitor knows now."""
        import ray

        from hapredict.monitoring.ray_pool_monitor import monitor_of

        monitor = monitor_of(self.name, self.spec.serving.pool)
        return MonitorReport.from_json(ray.get(monitor.report.remote(), timeout=30))

    def controller(self):
        """What the controller says of itself."""
        from hapredict.control.ray_pool_control import controller_status

        return controller_status(self.store, self.name)

    def pids(self):
        """The processes of the replicas, as the operating system knows them."""
        from hapredict.control.ray_embedded import find

        title = f"ray::ServeReplica:{self.name}:"
        return {
            process.pid
            for process in psutil.Process(find(self.home).pid).children(recursive=True)
            if title in " ".join(_command_line(process))
        }


def _command_line(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return ()


def post(url, body):
    """POST JSON, or bytes as they are."""
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    return httpx.post(url, **content, timeout=30, trust_env=False)


def eventually(look, wanted=bool, *, wait_s=WAIT_S, pause_s=0.1, during=()):
    """What `look` returns as soon as it is `wanted`; errors of the kinds `during` count as not yet.

    Fails after `wait_s`.
    """
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            found = look()
            if wanted(found):
                return found
        except during as error:
            found = error
        assert time.monotonic() < deadline_s, f"still {found!r} after {wait_s} s"
        time.sleep(pause_s)


def _shared(request, name, make):
    held = request.config.stash.setdefault(_SHARED, {})
    if name not in held:
        held[name] = make()
    return held[name]


@pytest.fixture(scope="session")
def cluster(request, tmp_path_factory):
    """The `LocalCluster` of the session; this process is connected to it."""

    def make():
        from hapredict.control import ray_embedded

        before = dict(os.environ)

        def end():
            ray_embedded.disconnect()
            ray_embedded.stop(home)
            os.environ.clear()
            os.environ.update(before)

        home = tmp_path_factory.mktemp("home")
        # a cleanup of the configuration would come when xdist no longer waits for this process
        request.addfinalizer(end)
        # ports of its own: the processes of xdist may both find a default one free
        started = ray_embedded.start(home, num_cpus=CPUS, serve_port=0, grpc_port=0)
        ray_embedded.connect(home)
        return started

    return _shared(request, "cluster", make)


@pytest.fixture(scope="session")
def model(request, cluster):
    """A small model that two replicas serve; its state is that of whoever came before."""

    def make():
        home = Path(cluster.home)
        source = write(home / "data" / "orders.csv", people(1500))
        # tests ask for the same few rows over and over, which is no incident here
        calm = {"report_s": 0.2, "rate_tolerance": 0.99, "label_delay_tolerance": 0.99}
        return serve_model(small_spec(MODEL, source, monitoring=calm), home)

    return _shared(request, "model", make)


def serve_model(spec, home):
    """Apply a spec and wait until its replicas answer."""
    from hapredict.control.ray_apply import apply

    applied = apply(spec, home, lambda *_: None, wait_s=APPLY_S)
    return Served(applied.url, spec, home)


def publish_people(spec, home, **weights):
    """Publish a linear model of `people` under a spec: the next version, without a training."""
    rows = people(200, seed=99)
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != spec.data.target}
    store = open_store(store_url(spec, home))
    return publish_linear(
        store, spec.name, spec=spec, schema=SCHEMA, table=SCHEMA.table(columns), weights=weights
    )


@contextlib.contextmanager
def retired(*names: str) -> Iterator[None]:
    """After the block, nothing of these models runs: what nobody asks any more still polls."""
    from hapredict.monitoring.ray_monitor import stop_monitor
    from hapredict.serving.ray_serve import remove

    try:
        yield
    finally:
        for name in names:
            _end_actor(f"hapredict:{name}:controller")  # first, since it would start the others
            _end_actor(f"hapredict:{name}:learner")
            stop_monitor(name)
            remove(name)


def _end_actor(name):
    import ray

    from hapredict.control.ray_embedded import NAMESPACE

    with contextlib.suppress(ValueError):
        ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=True)
