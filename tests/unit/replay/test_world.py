"""What policies come to over small pasts, by the real monitor, control, replica and trees."""

import numpy as np
import pytest

from hapredict.errors import GateRefused, TrainingFailed
from hapredict.registry.store import open_store
from hapredict.replay.learner import CachedLearner
from hapredict.sections import DAY_S
from tests.support.control import check_state
from tests.support.pasts import START_S, live, past_of, spec_of_past

SPEC = spec_of_past()
TURN = 30
TURNED = past_of(turns=TURN)
LEARNER = CachedLearner(TURNED, SPEC)
"""Shared: what one test has learned, another finds."""


class Watched:
    """A learner that notes when it was asked, by the newest row that it was shown."""

    def __init__(self, past):
        self.past, self.newest_s = past, []

    def learn(self, rows):
        self.newest_s.append(float(self.past.event_s[rows].max()))
        return LEARNER.learn(rows)


class Breaks:
    """A learner whose machine has no memory left after the first model."""

    def __init__(self):
        self.first = True

    def learn(self, rows):
        if not self.first:
            raise TrainingFailed("out of memory")
        self.first = False
        return LEARNER.learn(rows)


def mean_loss(lived, past, from_day=0.0):
    late = past.event_s[lived.rows] >= START_S + from_day * DAY_S
    return float(np.mean((past.labels[lived.rows] - lived.scores[:, 0])[late] ** 2))


@pytest.fixture
def lived(tmp_path):
    def lived(policy, past=TURNED, learner=LEARNER, **changes):
        return live(policy, past, tmp_path / policy, learner=learner, **changes)

    return lived


def test_who_never_retrains_is_answered_by_the_first_version(lived):
    never = lived("never")
    assert set(never.versions) == {1}
    assert [entry.action for entry in never.entries] == ["TakeOver", "Train", "Install"]


def test_all_policies_answer_the_same_rows_each_once(lived):
    rows = [lived(policy).rows for policy in ("never", "10d", "ours")]
    assert len(set(rows[0].tolist())) == len(rows[0])
    assert np.array_equal(rows[0], rows[1])
    assert np.array_equal(rows[0], rows[2])


def test_a_schedule_trains_by_the_calendar_and_serves_at_once(lived):
    by_days = lived("10d")
    trained = [entry.event_s for entry in by_days.entries if entry.action == "Train"]
    assert np.diff(trained).tolist() == [10 * DAY_S] * (len(trained) - 1)
    assert by_days.count("Promote") == by_days.count("Train") - 1
    served = TURNED.event_s[by_days.rows[by_days.versions == 2]]
    assert served.min() >= trained[1]


def test_a_gate_that_wants_proof_promotes_less_than_one_that_wants_no_harm(lived):
    quiet = past_of()
    learner = CachedLearner(quiet, SPEC)
    promoted = [
        lived(name, quiet, learner).count("Promote") for name in ("10d", "10d-safe", "10d-better")
    ]
    assert promoted[0] >= promoted[1] > promoted[2]


def test_no_label_is_learned_before_it_has_come(lived):
    watched = Watched(TURNED)
    slow = lived("10d", learner=watched, delay_days=5, start="0.5")
    trained = [entry.event_s for entry in slow.entries if entry.action == "Train"]
    assert len(watched.newest_s) == len(trained)
    for now_s, newest_s in zip(trained, watched.newest_s, strict=True):
        assert newest_s <= now_s - 5 * DAY_S


def test_a_world_that_turns_worse_is_seen_and_followed(lived):
    ours, never = lived("ours"), lived("never")
    alarm = next(alarm for _, alarm in ours.alarms if alarm.kind == "concept drift")
    assert START_S + TURN * DAY_S < alarm.at_s < START_S + (TURN + 15) * DAY_S
    assert ours.count("Promote") >= 1
    assert mean_loss(ours, TURNED, 45) < 0.9 * mean_loss(never, TURNED, 45)
    for entry in ours.entries:
        check_state(entry.state)


def test_inputs_that_move_without_harm_promote_nobody_and_raise_no_alarm_of_the_loss(lived):
    moved = past_of(moves=TURN)
    learner = CachedLearner(moved, SPEC)
    loss = lived("loss", moved, learner)
    assert {alarm.kind for _, alarm in loss.alarms} >= {"feature drift"}
    assert not [alarm for _, alarm in loss.alarms if alarm.kind == "concept drift"]
    assert loss.count("Train") == 1


def test_a_life_lived_twice_is_the_same(lived, tmp_path):
    one = lived("ours")
    two = live("ours", TURNED, tmp_path / "again", learner=LEARNER)
    assert [entry.to_json() for entry in one.entries] == [entry.to_json() for entry in two.entries]
    assert np.array_equal(one.scores, two.scores)


def test_hours_are_steps_as_days_are(lived):
    by_hours = lived("never", step_days=0.25)
    assert np.array_equal(by_hours.scores, lived("never").scores)


def test_each_lesson_is_learned_once(lived):
    learner = CachedLearner(TURNED, SPEC)
    lived("20d", learner=learner)
    before = learner.fitted
    lived("20d-safe", learner=learner)
    lived("never", learner=learner)
    assert learner.fitted == before == 3


def test_what_is_kept_in_a_store_is_not_learned_again(lived):
    kept = open_store("memory://replay-kept")
    one, two = (CachedLearner(TURNED, SPEC, kept=kept) for _ in range(2))
    found = [lived("20d", learner=learner) for learner in (one, two)]
    assert (one.fitted, two.fitted) == (3, 0)
    assert np.array_equal(found[0].scores, found[1].scores)
    other_code = CachedLearner(TURNED, SPEC, kept=kept, code="newer")
    lived("never", learner=other_code)
    assert other_code.fitted == 1


def test_somebody_resumes_what_was_paused_after_some_days(lived):
    hasty = spec_of_past(control={"trainings_failed_max": 1, "age_max_days": 5})
    life = lived("ours", learner=Breaks(), spec=hasty, resume_days=4)
    stops = [entry.event_s for entry in life.entries if entry.action == "Pause"]
    resumed = [entry.event_s for entry in life.entries if entry.action == "Resume"]
    assert len(resumed) >= 2
    assert [two - one for one, two in zip(stops, resumed, strict=False)] == [4 * DAY_S] * len(
        resumed
    )


def test_without_a_first_model_the_reason_is_said(lived):
    senseless = past_of(spec_of_past(), days=20, turns=0)
    senseless.labels[:] = np.random.default_rng(0).integers(0, 2, len(senseless))
    with pytest.raises(GateRefused, match="there is no first model"):
        lived("ours", senseless, CachedLearner(senseless, SPEC), start="0.3")
