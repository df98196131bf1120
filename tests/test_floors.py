"""The house stands as its plan says, and the test that says so can see."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.support.floors import ALLOWED, ORDER, faults_of, libraries_of, long_files

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "hapredict"
CODE = [
    ROOT / folder
    for folder in ("src", "tests", "jobs", "examples", "benchmarks")
    if (ROOT / folder).is_dir()
]


def test_each_file_keeps_to_its_floor():
    assert not (faults := faults_of(PACKAGE)), "\n" + "\n".join(faults)


def test_no_file_is_longer_than_one_sitting():
    assert not (faults := long_files(*CODE)), "\n" + "\n".join(faults)


def test_each_stage_of_the_order_exists():
    missing = [
        stage
        for stage in ORDER
        if not (PACKAGE / stage).is_dir() and not (PACKAGE / f"{stage}.py").is_file()
    ]
    assert not missing, f"src/hapredict has no {missing}"


def test_each_exception_is_still_needed():
    gone = [path for path, _ in ALLOWED if not (PACKAGE / path).is_file()]
    unused = [
        f"{path}: {door}"
        for path, door in ALLOWED
        if path not in gone and door.rpartition(".")[2] not in (PACKAGE / path).read_text("utf-8")
    ]
    assert not gone + unused, f"remove from ALLOWED in tests/support/floors.py: {gone + unused}"


def test_each_library_in_use_is_a_declared_dependency():
    """What comes along with another library may go again with its next version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    texts = project["dependencies"] + extras["trees"] + extras["lab"]
    declared = {_plain_name(re.split(r"[\[<>=! ]", text)[0]) for text in texts}
    provided_by = packages_distributions()
    missing = [
        library
        for library in sorted(libraries_of(PACKAGE))
        if not declared & {_plain_name(name) for name in provided_by.get(library, [])}
    ]
    assert not missing, f"declare in pyproject.toml, with a reason, or do without: {missing}"


def test_mypy_is_told_each_edge_by_name():
    """It is strict with plain files; its overrides know no pattern such as `ray_*`."""
    edges = sorted(
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        for file in PACKAGE.rglob("*.py")
        if file.name.startswith(("ray_", "keras_"))
    )
    overrides = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    told = overrides["tool"]["mypy"]["overrides"][1]["module"]
    assert sorted(told) == edges


def _plain_name(distribution: str) -> str:
    return distribution.lower().replace("_", "-")


def test_nothing_is_left_for_later():
    """Neither in code nor in tests: what is not done is not begun."""
    words = ["TO" + "DO", "FIX" + "ME", "XX" + "X", "Not" + "ImplementedError"]
    words += ["mark." + "skip", "mark." + "xfail", "pytest." + "skip", "import" + "orskip"]
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, words)) + r")\b")
    found = [
        f"{file.relative_to(ROOT)}:{number}: {match[0]}; finish it or leave it out"
        for folder in CODE
        for file in sorted(folder.rglob("*.py"))
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if (match := pattern.search(line))
    ]
    assert not found, "\n" + "\n".join(found)


def test_plain_files_load_without_ray_or_keras():
    """Also through what they import: in a process in which no edge can be imported."""
    modules = sorted(
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for file in PACKAGE.rglob("*.py")
        if not file.name.startswith(("ray_", "keras_"))
    )
    program = (
        "import sys\n"
        "for edge in ('ray', 'keras', 'tensorflow', 'pandas'):\n"
        "    sys.modules[edge] = None\n"
        "from importlib import import_module\n"
        "for name in sys.argv[1:]:\n"
        "    import_module(name)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *modules],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


# The checker is checked: each planted breach is found, and the sound house has none.

SOUND = {
    "__init__.py": '"""A house."""\n',
    "errors.py": '"""Errors."""\n',
    "data/__init__.py": '"""Data."""\n',
    "data/schema.py": '"""Schema."""\nfrom hapredict.errors import Oops\nimport numpy\n',
    "data/ray_dataset.py": '"""Edge."""\nimport ray\nimport pandas\nimport time\n',
    "training/__init__.py": '"""Training."""\n',
    "training/keras_fit.py": '"""Edge."""\nimport keras\nfrom hapredict.data import schema\n',
    "training/ray_train.py": '"""Edge."""\nfrom hapredict.training import keras_fit\n',
    "control/__init__.py": '"""Control."""\n',
    "control/decide.py": '"""Decide."""\nfrom datetime import datetime\nx = datetime.max\n'
    "from threading import Lock\ndef f(requests):\n    return requests.get(Lock)\n",
    "cli.py": '"""Commands."""\ndef up():\n    from hapredict.training import ray_train\n',
}

BREACHES = {
    "a stage to the right": ("data/x.py", "from hapredict.control import decide", "to its right"),
    "a stage to the right, inside a function": (
        "data/x.py",
        "def f():\n    import hapredict.control.decide",
        "to its right",
    ),
    "Ray in a plain file": ("data/x.py", "import ray", "only ray_"),
    "Ray inside a function": ("data/x.py", "def f():\n    from ray import serve", "only ray_"),
    "Ray by its name as text": (
        "data/x.py",
        "import importlib\nimportlib.import_module('ray.serve')",
        "only ray_",
    ),
    "Keras in a Ray edge": ("training/ray_x.py", "import keras", "only keras_"),
    "Ray in a Keras edge": ("training/keras_x.py", "import ray.train", "only ray_"),
    "TensorFlow in a plain file": ("training/x.py", "import tensorflow as tf", "only keras_"),
    "pandas in a plain file": ("data/x.py", "import pandas as pd", "only ray_"),
    "an edge in a plain file": (
        "training/x.py",
        "from hapredict.training import keras_fit",
        "edge",
    ),
    "a name out of an edge": (
        "training/x.py",
        "from hapredict.training.keras_fit import fit",
        "the edge",
    ),
    "a Ray edge in a Keras edge": (
        "training/keras_x.py",
        "from hapredict.training.ray_train import go",
        "the edge",
    ),
    "a relative import": ("data/x.py", "from . import schema", "relatively"),
    "the clock": ("data/x.py", "import time", "time as an argument"),
    "the clock under another name": (
        "data/x.py",
        "from datetime import datetime as d\nd.now()",
        "time as an argument",
    ),
    "today": ("data/x.py", "import datetime\ndatetime.date.today()", "time as an argument"),
    "the environment": ("data/x.py", "import os\nos.environ['A']", "setting as an argument"),
    "the environment, imported": ("data/x.py", "from os import environ", "setting as an argument"),
    "a thread": ("data/x.py", "from threading import Thread", "threads"),
    "a thread by its module": ("data/x.py", "import threading\nthreading.Timer(1, f)", "threads"),
    "a thread pool": ("data/x.py", "from concurrent.futures import Executor", "threads"),
    "the network": ("data/x.py", "import urllib.request", "network"),
    "the network, from its package": ("data/x.py", "from urllib import request", "network"),
    "storage behind the store's back": ("data/x.py", "import obstore", "registry/store.py"),
    "a pickle": ("data/x.py", "import pickle", "JSON"),
    "an unknown stage": ("extras/x.py", "", "no place in ORDER"),
    "an import of an unknown stage": ("data/x.py", "import hapredict.extras", "no place"),
    "code in an __init__": ("data/__init__.py", "from hapredict.data.schema import A", "docstring"),
    "an import in the package": ("__init__.py", "import hapredict.data", "docstring"),
}


def _build(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_a_sound_house_has_no_faults(tmp_path):
    assert faults_of(_build(tmp_path, SOUND)) == []


@pytest.mark.parametrize("breach", BREACHES)
def test_a_planted_breach_is_found(tmp_path, breach):
    name, code, message = BREACHES[breach]
    planted = {**SOUND, name: f'"""Planted."""\n{code}\n'}
    faults = faults_of(_build(tmp_path, planted))
    assert faults, f"{breach} was not seen"
    assert all(fault.startswith(f"{name}:") for fault in faults), faults
    assert any(message in fault for fault in faults), faults


def test_a_file_without_a_story_is_found(tmp_path):
    faults = faults_of(_build(tmp_path, {**SOUND, "data/x.py": "a = 1\n"}))
    assert [fault for fault in faults if fault.startswith("data/x.py:1") and "docstring" in fault]


def test_the_package_and_its_client_may_hand_out_names_lazily(tmp_path):
    door = '"""A house."""\n__all__ = ["A"]\n\ndef __getattr__(name):\n    return name\n'
    doors = {"__init__.py": door, "client/__init__.py": door}
    assert faults_of(_build(tmp_path, {**SOUND, **doors})) == []
    assert faults_of(_build(tmp_path, {**SOUND, "data/__init__.py": door}))


def test_a_long_file_is_found(tmp_path):
    _build(tmp_path, {"a.py": "x = 1\n" * 401, "b.py": "x = 1\n" * 400})
    assert [Path(fault.partition(":")[0]).name for fault in long_files(tmp_path)] == ["a.py"]
