"""Replicas follow the load, which Ray Serve by itself does not see on the fast data plane."""

import time
from pathlib import Path

import pytest

from hapredict.serving.ray_serve import replica_states
from tests.support.clusters import eventually, publish_people, retired, serve_model
from tests.support.load import Load
from tests.support.people import people, sent, small_spec, write

pytestmark = pytest.mark.timeout(400)

MODEL = "elastic"
STEADY_S = 8


@pytest.fixture(scope="module")
def elastic(cluster):
    home = Path(cluster.home)
    rows = people(600, seed=3)
    serving = {
        "min_replicas": 1,
        "max_replicas": 3,
        "num_cpus": 1,
        "target_ongoing_requests": 1.0,
        "target_utilization": 1.0,
        "upscale_delay_s": 1,
        "downscale_delay_s": 4,
        "look_back_period_s": 4,
    }
    source = write(home / "data" / "elastic.csv", rows)
    spec = small_spec(MODEL, source, serving=serving)
    publish_people(spec, home)
    with retired(MODEL):
        yield serve_model(spec, home)


def running():
    return replica_states(MODEL).get("RUNNING", 0)


def test_replicas_come_with_the_load_and_go_with_it_and_no_request_notices(elastic):
    body = {"instances": [sent(row) for row in people(1)]}
    assert running() == 1
    with Load(elastic.predict_url, body, callers=12, pause_s=0.0) as busy:
        eventually(lambda: running() >= 2, wait_s=120)
        seen = [running()]
        until_s = time.monotonic() + STEADY_S
        while time.monotonic() < until_s:
            time.sleep(0.2)
            seen.append(running())
    assert seen == sorted(seen)  # none goes while the load is the same
    with Load(elastic.predict_url, body, callers=1, pause_s=0.05) as calm:
        eventually(lambda: running() == 1, wait_s=120)
        calm.more(20)
    assert busy.faults == calm.faults == []
    assert busy.answered > 1000
