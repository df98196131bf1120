"""How many workers a cluster has room for, and how they share a node."""

from hypothesis import given
from hypothesis import strategies as st

from hapredict.sections import TrainingSpec, WorkerRange
from hapredict.training.scale import (
    Node,
    given_back,
    how_to_add_up,
    size_group,
    threads_each,
    worker_limits,
    worth_growing,
)

cpus = st.integers(0, 64).map(float)
nodes = st.lists(
    st.builds(Node, st.uuids().map(str), cpus, st.integers(0, 8).map(float)), max_size=8
)
ranges = st.tuples(st.integers(1, 9), st.integers(0, 9)).map(
    lambda pair: WorkerRange(min=pair[0], max=sum(pair))
)
workers = st.one_of(st.integers(1, 9), ranges, st.just("auto"))
specs = st.builds(
    TrainingSpec,
    workers=workers,
    cpus_per_worker=st.sampled_from([0.5, 1, 2, 3]),
    device=st.sampled_from(["auto", "cpu", "gpu"]),
)


def spec_of(workers, **more):
    return TrainingSpec(workers=workers, **more)


@given(specs, nodes, st.integers(1, 20))
def test_a_group_keeps_to_the_spec_and_to_what_is_free(spec, nodes, most):
    fewest, allowed = worker_limits(spec)
    group = size_group(spec, nodes, most)
    assert fewest <= group.workers <= allowed
    if group.workers > fewest:
        assert group.workers <= most
        assert group.workers * group.cpus <= sum(node.cpus for node in nodes)
        if group.gpu:
            assert group.workers <= sum(node.gpus for node in nodes)
        if group.one_a_node:
            assert group.workers <= len(nodes)


@given(specs, nodes, st.data())
def test_what_is_taken_and_given_back_makes_room_for_as_many(spec, nodes, data):
    group = size_group(spec, nodes)
    taken = []
    left = list(nodes)
    for _ in range(group.workers):
        fits = [
            place
            for place, node in enumerate(left)
            if node.cpus >= group.cpus and node.gpus >= group.gpu
        ]
        if not fits:
            return  # they have to wait
        place = data.draw(st.sampled_from(fits))
        node = left[place]
        left[place] = Node(node.id, node.cpus - group.cpus, node.gpus - group.gpu)
        taken.append(node.id)
    assert size_group(spec, given_back(left, group, taken)) == group


def test_what_others_hold_does_not_count():
    free = [Node("a", 1), Node("b", 0)]
    assert size_group(spec_of({"min": 1, "max": 2}), free).workers == 1


def test_auto_is_one_worker_a_node():
    group = size_group(spec_of("auto"), [Node("a", 8), Node("b", 1), Node("head", 0)])
    assert (group.workers, group.one_a_node) == (2, True)


def test_auto_is_one_worker_a_gpu_where_there_are_some():
    group = size_group(spec_of("auto"), [Node("a", 8, 4), Node("b", 8)])
    assert (group.workers, group.gpu, group.one_a_node) == (4, True, False)
    assert group.resources == {"CPU": 1.0, "GPU": 1.0}


def test_a_gpu_too_few_is_a_reason_to_use_none():
    cluster = [Node("a", 8, 1)]
    assert not size_group(spec_of(2), cluster).gpu
    assert not size_group(spec_of(1, device="cpu"), cluster).gpu
    assert size_group(spec_of(2, device="gpu"), cluster).gpu


def test_workers_are_joined_by_the_shortest_way():
    assert how_to_add_up(["a"], gpu=True) == "alone"
    assert how_to_add_up(["a", "a"], gpu=False) == "one_node"
    assert how_to_add_up(["a", "b"], gpu=False) == "network"
    assert how_to_add_up(["a", "b"], gpu=True) == "nccl"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 64)), min_size=1, max_size=9))
def test_no_node_has_more_threads_than_cores_unless_it_has_more_workers(pairs):
    cores = dict(pairs)
    where = [node for node, _ in pairs]
    threads = threads_each(where, [cores[node] for node in where])
    assert threads >= 1
    for node in set(where):
        assert threads * where.count(node) <= max(cores[node], where.count(node))


@given(st.integers(1, 50), st.integers(1, 50), st.floats(0, 1e6), st.floats(0.1, 1e3))
def test_growing_has_to_save_more_than_it_costs(now, more, remaining_s, restart_s):
    grows = worth_growing(now, more, remaining_s=remaining_s, restart_s=restart_s)
    assert grows == (more > now and remaining_s - remaining_s * now / more > restart_s) or (
        abs(remaining_s - remaining_s * now / more - restart_s) < 1e-6 * max(1, remaining_s)
    )
