"""cluster.yaml is what Ray's launcher takes, and keeps the promises that its comments make.

Ray's own validator is run in a process of its own: it imports Ray, which plain tests must not.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
import yaml

from hapredict.control.serve_flags import AT_BACKENDS, RETRY_ON

TELLS = 'printf %s "$RAY_SERVE_HAPROXY_HEALTH_CHECK_DOWNINTER"'
ROOT = Path(__file__).parents[1]
RAY = Path(next(iter(importlib.util.find_spec("ray").submodule_search_locations)))


@pytest.fixture(scope="module")
def cluster():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def environment(cluster):
    """What every node has in its environment, by name."""
    options = [text for text in cluster["docker"]["run_options"] if text.startswith("-e ")]
    return dict(option.removeprefix("-e ").split("=", 1) for option in options)


def test_rays_schema_accepts_it(cluster):
    schema = json.loads((RAY / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(cluster, schema)


def test_rays_launcher_accepts_it():
    program = (
        "import sys, yaml\n"
        "from ray.autoscaler._private.util import prepare_config, validate_config\n"
        "config = prepare_config(yaml.safe_load(open(sys.argv[1])))\n"
        "validate_config(config)\n"
        "assert config['head_node_type'] == 'head'\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, ROOT / "cluster.yaml"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def test_the_head_serves_nothing(cluster):
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0
    assert any("--num-cpus=0" in command for command in cluster["head_start_ray_commands"])


def test_the_heads_memory_lies_outside_the_head(cluster):
    options = " ".join(cluster["docker"]["head_run_options"])
    assert "RAY_REDIS_ADDRESS=" in options
    assert "RAY_external_storage_namespace=" in options


def test_workers_wait_for_a_new_head(environment):
    assert int(environment["RAY_gcs_rpc_server_reconnect_timeout_s"]) >= 600


def test_every_node_asks_for_the_token(cluster, environment):
    assert environment["RAY_AUTH_MODE"] == "token"
    folder = Path(environment["RAY_AUTH_TOKEN_PATH"]).parent.as_posix()
    assert folder in cluster["file_mounts"]


def test_there_are_workers_of_both_kinds(cluster):
    kinds = cluster["available_node_types"]
    workers = [kind for name, kind in kinds.items() if name != cluster["head_node_type"]]
    assert any("GPU" in kind["resources"] for kind in workers)
    serving = [kind for kind in workers if "GPU" not in kind["resources"]]
    assert sum(kind["min_workers"] for kind in serving) >= 2, "one node cannot outlive itself"


def test_each_flag_of_serve_is_one_that_serve_reads(environment):
    """A flag that Serve does not know is a promise silently broken."""
    known = "".join(
        file.read_text(encoding="utf-8") for file in (RAY / "serve" / "_private").glob("*.py")
    )
    unknown = [name for name in environment if "SERVE" in name and f'"{name}"' not in known]
    assert "RAY_SERVE_ENABLE_HA_PROXY" in environment
    assert not unknown


def test_a_request_is_repeated_when_it_is_on_one_machine(environment):
    assert environment["RAY_SERVE_HAPROXY_RETRY_ON"].strip("'") == RETRY_ON


def test_both_kinds_of_node_are_started_again_when_they_end(cluster):
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        assert [command for command in commands if command.startswith("ray-node ")]


def test_a_node_that_ends_is_started_again_until_it_is_stopped(tmp_path):
    starts = tmp_path / "starts"
    rules = tmp_path / "rules"
    ray = f'echo "$@" >> {starts}\n[ -f {rules} ] || {TELLS} > {rules}\nexit 1\n'
    (tmp_path / "ray").write_text(f"#!/bin/sh\n{ray}")
    (tmp_path / "ray").chmod(0o755)
    setting = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "RAY_NODE_STATE": str(tmp_path / "state"),
        "RAY_NODE_PAUSE_S": "0.05",
    }
    keeper = ROOT / "deploy" / "ray-node"
    subprocess.run([keeper, "--head", "--num-cpus=0"], env=setting, check=True, timeout=30)
    try:
        _wait_for(lambda: starts.is_file() and len(starts.read_text().splitlines()) >= 3)
    finally:
        subprocess.run([keeper, "--stop"], env=setting, check=True, timeout=30)
    assert set(starts.read_text().splitlines()) == {"start --block --head --num-cpus=0"}
    assert rules.read_text() == AT_BACKENDS
    time.sleep(0.3)
    before = starts.read_text()
    time.sleep(0.5)
    assert starts.read_text() == before, "stopped, and started again"


def _wait_for(condition, limit_s=20):
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, "did not happen in time"
        time.sleep(0.05)
