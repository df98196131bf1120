"""Each notebook runs from its first cell to its last, and says nothing on the side."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from ipykernel.kernelspec import write_kernel_spec
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from hapredict.control import ray_embedded

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CELL_S = 300
MAIN = "__main__"


@pytest.fixture
def surroundings():
    """The environment of a fresh shell; clusters that a broken notebook leaves behind are ended."""
    # sockets lie below it, and the path of a socket must be short
    folder = Path(tempfile.mkdtemp(prefix="nb"))
    foreign = ("RAY_", "HAPREDICT_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    yield {**kept, "TMPDIR": str(folder)}
    for note in folder.glob("*/cluster.json"):
        ray_embedded.stop(note.parent)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def kernel(tmp_path):
    """Runs cells in this interpreter, whatever other kernels the machine knows."""
    write_kernel_spec(str(tmp_path / "python3"))
    specs = KernelSpecManager(kernel_dirs=[str(tmp_path)])
    return AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_a_notebook_is_kept_without_its_outputs(notebook):
    nbformat.validate(notebook)
    kept = [
        cell.id for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")
    ]
    assert not kept


def test_a_notebook_runs_and_says_nothing_on_the_side(notebook, kernel, surroundings, tmp_path):
    probe = nbformat.v4.new_code_cell("import sys\nprint(sys.executable)")
    notebook.cells.insert(0, probe)
    client = NotebookClient(
        notebook, km=kernel, timeout=CELL_S, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env=surroundings)
    outputs = [
        (cell.source, output) for cell in notebook.cells for output in cell.get("outputs", [])
    ]
    assert outputs[0][1].text.strip() == sys.executable
    noise = [
        (source.splitlines()[0], output.text)
        for source, output in outputs
        if output.output_type == "stream" and output.name == "stderr"
    ]
    assert not noise
    assert not list(Path(surroundings["TMPDIR"]).glob("first-model-*")), "it left its home behind"
