"""However many replicas report, and however often a report comes: each row counts once."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.features.clock import HOUR_S
from hapredict.monitoring.champion import Champion, View
from hapredict.monitoring.monitor import Monitor
from hapredict.serving.journal import WindowCounts, add_windows
from tests.support.bundles import MODEL
from tests.support.live import bundle_of, labels_of, part_of, state_of

REPLICAS = 1000
ROUNDS = 4
BUNDLE = bundle_of(window_rows=3 * REPLICAS)
VIEW = View.of(1, BUNDLE)
BINS, SCORES = len(VIEW.reference.bins), len(VIEW.reference.score_counts)


def reports(hour, chance):
    """Counts of three rows from each of a thousand replicas, in one hour."""
    shares = np.array(VIEW.reference.bins, float)
    totals = [len(labels) for labels in VIEW.bin_labels]
    parts = np.split(shares, np.cumsum(totals)[:-1])
    bins = np.concatenate(
        [chance.multinomial(3, part / part.sum(), size=REPLICAS) for part in parts], axis=1
    )
    scores = chance.multinomial(3, np.full(SCORES, 1 / SCORES), size=REPLICAS)
    return [WindowCounts(hour, 1, 3, own, told) for own, told in zip(bins, scores, strict=True)]


def champion_after(rounds):
    champion = Champion(VIEW)
    for hour, counts in enumerate(rounds):
        for one in counts:
            champion.add_counts((one,), (hour + 1) * HOUR_S)
    return champion.to_json()


@given(st.randoms(use_true_random=False))
@settings(max_examples=3, deadline=None)
def test_a_thousand_replicas_in_any_order_give_the_bits_of_a_single_stream(shuffle):
    chance = np.random.default_rng(0)
    rounds = [reports(hour, chance) for hour in range(ROUNDS)]
    single = champion_after([add_windows(counts) for counts in rounds])
    for counts in rounds:
        shuffle.shuffle(counts)
    assert champion_after(rounds) == single
    assert single["inputs"]["windows"] == ROUNDS


SOURCES = tuple("abc")
PARTS = {
    source: [
        part_of(BUNDLE, seq, source=source, rows=20, day=day / 2)
        for seq, day in enumerate(range(4), start=1)
    ]
    for source in SOURCES
}
KINDS = ("predictions", "labels")
OFFERS = st.lists(
    st.tuples(st.sampled_from(SOURCES), st.sampled_from(KINDS), st.integers(1, 4)), max_size=80
)


def offer(monitor, source, kind, seq):
    """Offer a part, as a reader might that does not know what was read."""
    if seq > monitor.positions[kind].get(source, 0) + 1:
        return  # a reader never goes past a gap
    part = PARTS[source][seq - 1]
    if kind == "predictions":
        monitor.fold_predictions(part)
    else:
        monitor.fold_labels(source, seq, labels_of(part))


def fresh():
    monitor = Monitor(MODEL)
    monitor.on_catalog(state_of(1), {1: BUNDLE}.__getitem__)
    return monitor


@given(OFFERS)
@settings(max_examples=25, deadline=None)
def test_parts_replayed_late_or_in_any_order_count_once(offers):
    monitor = fresh()
    for source, kind, seq in offers:
        offer(monitor, source, kind, seq)
    for kind in KINDS:
        for source in SOURCES:
            for seq in range(1, 5):
                offer(monitor, source, kind, seq)
    report = monitor.report()
    rows = sum(part.rows for parts in PARTS.values() for part in parts)
    assert (report.rows, report.labels_joined, report.labels_repeated) == (rows, rows, 0)
    assert report.labels_pending == report.labels_unmatched == 0
    assert report.positions == {kind: dict.fromkeys(SOURCES, 4) for kind in KINDS}


@given(OFFERS)
@settings(max_examples=15, deadline=None)
def test_offering_each_part_again_leaves_every_bit_as_it_is(offers):
    once, twice = fresh(), fresh()
    for source, kind, seq in offers:
        offer(once, source, kind, seq)
        offer(twice, source, kind, seq)
        offer(twice, source, kind, seq)
    assert once.to_bytes() == twice.to_bytes()


HOLD_OUTS = st.tuples(st.floats(0.02, 0.9), st.integers(50, 100_000))


@given(st.lists(HOLD_OUTS, min_size=2, max_size=6))
@settings(max_examples=20, deadline=None)
def test_a_retraining_in_a_bad_week_never_raises_what_is_tolerated(found):
    champion, bounds = None, []
    for number, (mean, rows) in enumerate(found, start=1):
        reference = replace(VIEW.reference, loss_mean=mean, loss_rows=rows)
        champion = Champion(replace(VIEW, number=number, reference=reference), champion)
        bounds.append(champion.losses.bound)
    assert bounds == sorted(bounds, reverse=True)
