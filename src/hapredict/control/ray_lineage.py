"""Where a model comes from, as far as only the machine that learns it can tell."""

import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_GIT_S = 10
_LIBRARIES = ("hapredict", "ray", "numpy", "onnx", "onnxruntime")
_FITTERS = {"network": ("tensorflow", "keras"), "trees": ("xgboost",)}


def libraries(kind: str) -> dict[str, str]:
    """Versions of the libraries that a family of this kind is learned and exported with."""
    return {name: _version(name) for name in (*_LIBRARIES, *_FITTERS[kind])}


def commit_of(folder: Path) -> str:
    """The commit of the git checkout around a folder, with `-dirty` behind it if files changed.

    "" where there is none, or no git.
    """
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--exclude=*"]
    return _said([*command, "--dirty"])


def _said(command: Sequence[str]) -> str:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return ended.stdout.strip() if ended.returncode == 0 else ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
