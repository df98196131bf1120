"""What a replay showed: months side by side, promises kept or broken, in one file."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.drill.past import Answered, Row
from hapredict.drill.report import ROWS_MIN, Counts, Month, Step, Story, months_of, page, text
from hapredict.monitoring.report import Alarm
from hapredict.registry import catalog
from hapredict.registry.catalog import Entry
from hapredict.training.metrics import evaluate
from tests.support.control import at, shadowing, steady

ODD = "</script><b>坏</b> & 'more'"


@pytest.fixture(scope="module", autouse=True)
def _plotly():
    """Loads its templates with the first figure, which would count against one test."""
    page(Story("warm"))


def answers(labels, month="2013-03", score=0.5, version=1):
    return [
        Answered(Row({}, label, 0.0), f"p{place}", score, version, "champion", month)
        for place, label in enumerate(labels)
    ]


def alarm(feature=""):
    kind = "feature drift" if feature else "concept drift"
    return Alarm(kind, feature, at(3), at(2), 0.2, 9.0, f"because of {ODD}")


def story(**changes):
    found = Story("flights", **changes)
    promoted = catalog.promote(shadowing(), at(40))
    for number, state in enumerate((steady(), shadowing(), promoted), 1):
        found.history.append(
            Entry(number, "Promote", ODD, 0.0, at(10.0 * number), 1, "a person", state)
        )
    found.months.append(
        Month("2013-03", 900, 0.25, (1, 2), {"auc": 0.7, "brier": 0.2}, {"auc": 0.8, "brier": 0.1})
    )
    return found


class TestMonths:
    @settings(max_examples=25)
    @given(st.lists(st.sampled_from([0, 1, None]), min_size=ROWS_MIN, max_size=2 * ROWS_MIN))
    def test_a_month_is_told_by_its_labelled_answers_only(self, labels):
        chance = np.random.default_rng(0)
        live, static = chance.random((2, len(labels)))
        given_answers = [
            Answered(Row({}, label, 0.0), f"p{place}", live[place], 1, "champion", "2013-03")
            for place, label in enumerate(labels)
        ]
        found = months_of(given_answers, static)
        places = [place for place, label in enumerate(labels) if label is not None]
        known = np.array([labels[place] for place in places], float)
        if len(places) < ROWS_MIN or len(set(known)) < 2:
            assert found == []
            return
        (month,) = found
        assert month.rows == len(places)
        assert month.base_rate == known.mean()
        assert month.live == evaluate("binary", known, live[places][:, None])
        assert month.static == evaluate("binary", known, static[places][:, None])

    def test_months_come_in_order_with_the_versions_that_answered_in_them(self):
        labels = [0, 1] * ROWS_MIN
        given_answers = [
            *answers(labels, "2013-11", version=3),
            *answers(labels, "2013-02"),
            *answers(labels, "2013-11", version=2),
        ]
        found = months_of(given_answers, [0.5] * len(given_answers))
        assert [(month.month, month.versions) for month in found] == [
            ("2013-02", (1,)),
            ("2013-11", (2, 3)),
        ]

    @pytest.mark.parametrize("labels", [[], [1] * 500, [0, 1], [None] * 500])
    def test_months_that_tell_nothing_are_left_out(self, labels):
        assert months_of(answers(labels), [0.5] * len(labels)) == []


class TestText:
    def test_the_text_tells_months_numbers_and_promises(self):
        counts = Counts(requests=1000, failed=0, rows=12_345, labels_sent=9, worst_s=0.1234)
        steps = [Step("no request fails", True, "0 of 1,000"), Step("labels", False, "1 lost")]
        shown = text(story(counts=counts, steps=steps, wall_s=61.4))
        assert "requests sent 1,000, failed 0, slowest answer 123 ms" in shown
        assert "rows answered 12,345" in shown
        assert "kept    no request fails: 0 of 1,000" in shown
        assert "BROKEN  labels: 1 lost" in shown
        (row,) = [line for line in shown.split("\n") if line.startswith("2013-03  ")]
        assert row.split() == [
            "2013-03",
            "900",
            "25.0%",
            "0.700",
            "0.800",
            "0.2000",
            "0.1000",
            "v1,",
            "v2",
        ]

    def test_alarms_on_features_are_numbers_and_others_are_words(self):
        evidence = [("2013-03-05", alarm("month")), ("2013-03-06", alarm())]
        shown = text(story(evidence=evidence))
        assert f"2013-03-06  because of {ODD}" in shown
        assert "2013-03-05" not in shown
        assert "month 1" in shown

    def test_a_replay_that_showed_nothing_has_a_text_and_a_page(self):
        empty = Story("flights")
        shown = text(empty)
        assert "no entries" in shown
        assert "none" in shown
        assert "<h2>Promises</h2>" in page(empty)


class TestKept:
    def test_one_broken_promise_breaks_the_story(self):
        kept, broken = Step("a", True, ""), Step("b", False, "")
        assert story(steps=[kept, kept]).kept
        assert not story(steps=[kept, broken]).kept


class TestPage:
    @pytest.fixture
    def shown(self):
        steps = [Step(ODD, True, ODD), Step("labels", False, ODD)]
        return page(story(steps=steps, evidence=[("2013-03-06", alarm())]))

    def test_the_page_needs_no_other_file(self, shown):
        tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", shown)
        assert tags
        assert not [tag for tag in tags if "src=" in tag or "href=" in tag]

    def test_what_others_wrote_stays_text(self, shown):
        assert "</script><b>" not in shown
        assert "&lt;/script&gt;&lt;b&gt;坏&lt;/b&gt; &amp; &#x27;more&#x27;" in shown

    def test_the_page_tells_what_was_broken(self, shown):
        assert shown.count("<b>broken</b>") == 1
        assert "<td>kept</td>" in shown

    def test_scripts_end_where_they_should(self, shown):
        assert shown.count("<script") == shown.count("</script>")
