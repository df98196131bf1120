"""Changes written into a spec's YAML, around what people wrote there."""

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hapredict.control.patching import merged, patch_text, patched, write_beside, write_over
from hapredict.errors import SpecError

SPEC = """\
# orders that end badly
name: orders  # part of every URL

training:
  # found by hand
  hidden: [16]   # units
  dropout: 0.1
  trees:
    depth_max: 4  # shallow
serving: {max_replicas: 2}
"""
PATCH = {"training": {"hidden": [64, 64], "learning_rate": 0.004, "trees": {"l2": 10}}}

names = st.sampled_from(["alpha", "beta", "gamma"])
leaves = st.one_of(
    st.integers(-5, 5),
    st.booleans(),
    st.text("ab: #'\"[{é", max_size=6),
    st.lists(st.integers(0, 9)),
)
sections = st.dictionaries(names, leaves, min_size=1, max_size=3)
specs = st.dictionaries(st.sampled_from(["one", "two", "three"]), sections, min_size=1, max_size=3)


@given(specs, specs, st.sampled_from([None, True, False]))
def test_a_patched_text_says_what_both_say(spec, patch, flow):
    text = yaml.safe_dump(spec, default_flow_style=flow, allow_unicode=True)
    assert yaml.safe_load(patched(text, patch)) == merged(spec, patch)


def test_comments_and_all_other_lines_stay():
    after = patched(SPEC, PATCH)
    assert yaml.safe_load(after) == merged(yaml.safe_load(SPEC), PATCH)
    assert re.findall("#.*", after) == re.findall("#.*", SPEC)
    kept = [line for line in SPEC.splitlines() if "hidden" not in line]
    assert [line for line in after.splitlines() if line in kept] == kept


def test_a_section_that_is_missing_goes_to_the_end():
    after = patched("name: orders\n# the end\n", {"training": {"hidden": [8]}})
    assert after == "name: orders\n# the end\ntraining:\n  hidden: [8]\n"


@pytest.mark.parametrize("empty", ["training:", "training: {}", "training:  # none yet"])
def test_an_empty_section_is_filled(empty):
    after = patched(f"name: orders\n{empty}\nserving: {{}}\n", {"training": {"hidden": [8]}})
    assert yaml.safe_load(after) == {"name": "orders", "training": {"hidden": [8]}, "serving": {}}


def test_a_text_that_cannot_be_changed_safely_is_refused_with_what_to_write():
    shared = "name: orders\nbase: &base {hidden: [8]}\ntraining: *base\n"
    with pytest.raises(SpecError, match="write this in:\ntraining:\n  hidden: \\[64, 64\\]"):
        patched(shared, {"training": {"hidden": [64, 64]}}, where="orders.yaml")


def test_nothing_to_change_changes_nothing():
    assert patched(SPEC, {}) == SPEC


def test_the_file_beside_the_spec_holds_the_changed_keys_and_the_reason(tmp_path):
    path = write_beside(tmp_path / "订单.yaml", PATCH, "better\nby far: # 1")
    assert path.name == "订单.tuned.yaml"
    text = path.read_text(encoding="utf-8")
    assert yaml.safe_load(text) == PATCH
    assert "# by far: # 1" in text.splitlines()
    write_beside(tmp_path / "订单.yaml", {}, "the spec's own settings stand")
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == {}


def test_a_file_is_replaced_as_a_whole_and_keeps_its_mode(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text("a: 1")
    path.chmod(0o640)
    write_over(path, patch_text({"a": 2}, "why"))
    assert path.read_text() == "# why\na: 2\n"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]
