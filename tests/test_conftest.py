"""The rules in tests/conftest.py hold: limits, order, and no skipped test in integration."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SKIPPED = "import pytest\n\n@pytest.mark.{}\ndef test_a():\n    pass\n".format("sk" + "ip")
BUSY = (
    "import time\n\ndef test_a():\n    end_s = time.process_time() + 2.2\n"
    "    while time.process_time() < end_s:\n        pass\n"
)
QUICK = "def test_a():\n    pass\n"


def run(folder, files, *words, **environment):
    """Run pytest over planted tests, under our conftest; its exit code and what it printed."""
    tests = folder / "tests"
    for name, text in files.items():
        (tests / name).parent.mkdir(parents=True, exist_ok=True)
        (tests / name).write_text(text, encoding="utf-8")
    shutil.copy(HERE / "conftest.py", tests / "conftest.py")
    (folder / "pytest.ini").write_text(
        "[pytest]\naddopts = --import-mode=importlib --strict-markers\n"
        "markers =\n  keras: x\n  ray: x\n  chaos: x\n  docs: x\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *words, str(tests)],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
        check=False,
        env={**os.environ, "COVERAGE_PROCESS_START": "", **environment},
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_a_skipped_test_fails_integration_and_nothing_else(tmp_path):
    planted = {"unit/test_x.py": SKIPPED}
    assert run(tmp_path, planted, CI="")[0] == 0
    code, printed = run(tmp_path, planted, CI="true")
    assert code == 1
    assert "with CI=true each must run" in printed


def test_a_test_that_needs_a_gpu_may_be_skipped(tmp_path):
    without = SKIPPED.replace("ip\n", 'ip(reason="no GPU here")\n')
    planted = {"unit/test_x.py": without}
    assert run(tmp_path, planted, CI="true")[0] == 0


def test_a_unit_test_that_computes_for_long_fails_and_others_may(tmp_path):
    code, printed = run(tmp_path, {"unit/test_x.py": BUSY, "ray/test_x.py": BUSY})
    assert code == 1
    assert "the limit here is 2 s" in printed
    assert "1 failed, 1 passed" in printed


def test_what_is_quick_and_narrow_runs_first(tmp_path):
    folders = ["chaos", "contract", "keras", "ray", "unit"]
    planted = {f"{folder}/test_x.py": QUICK for folder in folders}
    planted["test_docs.py"] = "import pytest\n\n@pytest.mark.docs\n" + QUICK
    planted["test_root.py"] = QUICK
    _, printed = run(tmp_path, planted)
    files = re.findall(r"^tests/(\S+?)::test_a PASSED", printed, re.MULTILINE)
    assert [Path(file).parts[0] for file in files] == [
        "test_root.py",
        "unit",
        "contract",
        "keras",
        "ray",
        "chaos",
        "test_docs.py",
    ]


def test_what_takes_long_begins_where_processes_share_the_tests(tmp_path):
    planted = {f"{name}.py": QUICK for name in ("ray/test_a", "ray/test_tune")}
    planted |= {"chaos/test_b.py": QUICK, "chaos/test_training.py": QUICK}
    shared = ("-n", "1", "--dist", "loadfile", "--no-loadscope-reorder")
    _, printed = run(tmp_path, planted, *shared)
    files = re.findall(r"PASSED tests/(\S+?)\.py::test_a", printed)
    assert files == ["chaos/test_training", "ray/test_tune", "ray/test_a", "chaos/test_b"]


def test_what_takes_long_is_there():
    from tests.conftest import LONG

    assert not [name for name in LONG if not (HERE / name).exists()]


def test_a_folder_without_a_place_in_the_order_is_refused(tmp_path):
    code, printed = run(tmp_path, {"odd/test_x.py": QUICK})
    assert code != 0
    assert "no known folder" in printed
