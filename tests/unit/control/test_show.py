"""What people see of control: tables that stay tables, and words that stay words."""

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hapredict.control.runs import Record
from hapredict.control.show import (
    Shown,
    change_text,
    history_text,
    lines,
    moment,
    table,
    versions_text,
)
from hapredict.data.values import TIME_MAX_S, TIME_MIN_S
from hapredict.registry import catalog
from hapredict.registry.catalog import CatalogState, Entry
from tests.support.control import at, canarying, empty, shadowing, steady, watching

WORDS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=8)


def entry(state, sequence=1, reason="somebody wanted it"):
    return Entry(sequence, "Promote", reason, 0.0, at(3), 1, "a person", state)


class TestMoment:
    def test_a_moment_is_read_in_utc(self):
        assert moment(at(0)) == "2013-03-01 00:00"
        assert moment(0.0) == "-"

    @given(st.floats(TIME_MIN_S, TIME_MAX_S - 1))
    def test_every_time_that_a_row_may_have_can_be_shown(self, seconds):
        assert moment(seconds)


class TestTable:
    @given(st.lists(st.tuples(WORDS, WORDS, st.text(max_size=20)), max_size=6))
    def test_each_row_is_one_line_and_columns_begin_below_each_other(self, rows):
        shown = table(("one", "two", "three"), rows).split("\n")
        assert len(shown) == len(rows) + 1
        start = max(len(first) for first, _, _ in [("one", "", ""), *rows]) + 2
        for line, (first, second, _) in zip(shown[1:], rows, strict=True):
            assert line.startswith(first)
            assert line[start : start + len(second)] == second

    def test_without_rows_the_header_stands_alone(self):
        assert table(("version", "role"), []) == "version  role"
        assert table(("version",), iter([("v1",)])) == "version\nv1"

    def test_a_reason_of_several_lines_stays_in_its_row(self):
        shown = table(("#", "reason"), [("1", "the data cannot be used:\n  - a: b\n  - c: d")])
        assert shown.split("\n")[1] == "1  the data cannot be used: - a: b - c: d"


class TestHistory:
    def test_no_entries_are_said_to_be_none(self):
        assert history_text([]) == "no entries"

    @pytest.mark.parametrize(
        ("state", "serving"),
        [
            (empty(), "nothing"),
            (steady(), "v1"),
            (shadowing(), "v1, v2 in shadow"),
            (canarying(0.1), "v1, v2 in canary 10%"),
            (watching(), "v2, v1 beside"),
            (catalog.settle(watching(), at(40)), "v2"),
        ],
    )
    def test_who_serves_is_told_for_each_stage(self, state, serving):
        header, row = history_text([entry(state)]).split("\n")
        start = header.index("serving")
        assert row[start:].partition("  ")[0] == serving

    def test_entries_keep_their_order(self):
        shown = history_text(entry(steady(), number) for number in (1, 2, 10)).split("\n")
        assert [line.split()[0] for line in shown] == ["#", "1", "2", "10"]


class TestVersions:
    def test_each_version_has_its_role(self):
        state = watching()
        state = replace(
            state,
            versions={
                number: replace(version, metrics={"auc": 0.712345, "rows": 900})
                for number, version in state.versions.items()
            },
        )
        shown = versions_text(state).split("\n")
        assert [line.split()[:2] for line in shown[1:]] == [["v1", "previous"], ["v2", "champion"]]
        assert "2013-02-28 00:00" in shown[1]
        assert shown[1].endswith("auc 0.7123, rows 900")

    def test_a_version_that_nobody_uses_has_no_role(self):
        state = catalog.roll_back(watching(), at(40))
        assert [line.split()[1] for line in versions_text(state).split("\n")[1:]] == [
            "champion",
            "2013-03-20",
        ]

    def test_without_versions_there_is_a_header(self):
        assert versions_text(CatalogState("orders")).startswith("version")


class TestChange:
    @pytest.mark.parametrize(
        ("before", "after", "said"),
        [
            (
                canarying(0.1),
                catalog.promote(canarying(0.1), at(30)),
                "champion v1 -> v2, challenger v2 -> none, stage canary -> watch, share 0.1 -> 0.0",
            ),
            (
                shadowing(),
                catalog.abort(shadowing(), at(30)),
                "challenger v2 -> none, stage shadow -> steady",
            ),
            (steady(), catalog.pause(steady(), "holiday"), "paused none -> holiday"),
            (
                replace(steady(), paused="holiday", frozen="bad week", failed_trainings=2),
                steady(),
                "paused holiday -> none, frozen bad week -> none, failed trainings 2 -> 0",
            ),
            (steady(), steady(), ""),
        ],
    )
    def test_only_what_changes_is_said(self, before, after, said):
        assert change_text(before, after) == said


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)


class TestLines:
    @given(st.dictionaries(WORDS, JSON, max_size=4))
    def test_any_json_object_can_be_shown_with_all_its_keys(self, value):
        shown = lines(value).split("\n")
        for name in value:
            assert any(line == f"{name}:" or line.startswith(f"{name}: ") for line in shown)

    def test_nothing_is_a_dash_and_zero_and_false_are_not(self):
        value = {"a": None, "b": "", "c": [], "d": {}, "e": 0, "f": False, "g": 0.123456789}
        assert lines(value).split("\n") == [
            *("a: -", "b: -", "c: -", "d: -", "e: 0", "f: False", "g: 0.123457")
        ]

    def test_objects_are_indented_and_lists_are_one_line_an_entry(self):
        value = {"catalog": {"stage": "steady", "deep": {"x": 1}}, "drift": [{"a": 1.0, "b": None}]}
        assert lines(value).split("\n") == [
            "catalog:",
            "  stage: steady",
            "  deep:",
            "    x: 1",
            "drift:",
            "  a 1, b -",
        ]


class TestShown:
    def told(self, *tellings, terminal=False):
        file = io.StringIO()
        console = Console(file=file, width=60, force_terminal=terminal, color_system=None)
        with Shown(console) as shown:
            for sentence, record in tellings:
                shown.tell(sentence, record)
        return file.getvalue()

    def test_into_a_file_each_new_sentence_is_one_line_and_no_bar_is_drawn(self):
        long = "training on a great many workers, " * 4
        record = Record("run-1", "running", epoch=1, epochs=3, validation_loss=0.5)
        written = self.told(
            ("reading", None), ("reading", record), (long, record), ("reading", None)
        )
        assert [line.strip() for line in written.strip().split("\n")] == [
            "reading",
            long.strip(),
            "reading",
        ]

    @pytest.mark.parametrize("terminal", [True, False])
    def test_brackets_in_a_sentence_are_text(self, terminal):
        sentence = "rows[3].distance in [/data/a.csv] is [bold]odd"
        assert sentence in self.told((sentence, None), terminal=terminal).replace("\n", "")

    def test_a_terminal_sees_loss_and_restarts(self):
        record = Record("run-1", "running", epoch=1, epochs=3, validation_loss=0.25, restarts=2)
        written = self.told(("training", record), terminal=True)
        assert "validation loss 0.2500, 2 restarts" in " ".join(written.split())
        no_loss = replace(record, validation_loss=None)
        assert ", 2 restarts" not in self.told(("training", no_loss), terminal=True)

    def test_an_error_inside_ends_the_bar_and_goes_on(self):
        with pytest.raises(ValueError, match="stop"), Shown(Console(file=io.StringIO())):
            raise ValueError("stop")
