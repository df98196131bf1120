"""Whatever is killed while a model is trained, the training ends with it, and in the same bits."""

import pytest

from tests.support.nodes import Nodes, is_epoch, kill, train

LOSS_TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """A head without CPUs, and two nodes with room for two workers each."""
    nodes = Nodes(tmp_path_factory.mktemp("nodes"))
    try:
        nodes.start_head()
        started = [nodes.add(wait=False), nodes.add(wait=False)]
        for node in started:
            node.wait()
        yield nodes
    finally:
        nodes.stop()


@pytest.fixture(scope="module")
def calm(nodes):
    """How the training ends if nothing happens to it; the others are held up while they are hit."""
    found = train(nodes, "calm").end()
    assert found["workers"] == [[0, 2]]
    return found


@pytest.fixture(autouse=True)
def held(nodes, calm):
    nodes.hold.touch()


def test_a_training_outlives_each_of_its_processes_and_ends_in_the_same_bits(nodes, calm):
    """One after the other: a worker, Ray Train's controller, the supervisor, and a node."""
    others = set(nodes.pids("ray::Supervisor"))
    training = train(nodes, "hit")
    (supervisor,) = set(nodes.pids("ray::Supervisor")) - others
    begun = training.until(is_epoch)
    assert len({worker["node"] for worker in begun["workers"]}) == 2

    second = training.strike(kill, begun["workers"][1]["pid"])
    assert second["restarts"] == 1
    assert "process died" in second["notes"][-1]

    (controller,) = nodes.pids("ray::_Controller")
    third = training.strike(kill, controller)
    assert third["restarts"] == 2
    assert "controller died" in third["notes"][-1]

    fourth = training.strike(kill, supervisor)
    assert fourth["restarts"] == 0  # of the new supervisor

    (controller,) = nodes.pids("ray::_Controller")  # it is where the supervisor is
    home = nodes.node_of(controller)
    (other,) = (node for node in nodes.nodes.values() if node is not home)
    fifth = training.strike(nodes.remove, other)
    assert len({worker["node"] for worker in fifth["workers"]}) == 1

    nodes.hold.unlink()
    ended = training.end()
    assert ended["weights"] == calm["weights"]
    assert ended["history"] == calm["history"]


def test_a_killed_driver_can_be_run_again_and_goes_on(nodes, calm):
    first = train(nodes, "driven", "here")
    seen = first.until(lambda event: event["epoch"] >= 3)
    kill(first.driver.pid)
    assert first.result() is None
    nodes.hold.unlink()
    again = train(nodes, "driven", "here")
    ended = again.end()
    assert ended["weights"] == calm["weights"]
    assert ended["workers"][0][0] >= seen["epoch"] - 1
    assert again.driver.wait(timeout=60) == 0


def test_an_elastic_training_grows_and_shrinks_with_the_nodes(nodes, calm):
    for node in list(nodes.nodes.values())[1:]:
        nodes.remove(node)
    training = train(nodes, "elastic", "here", workers={"min": 1, "max": 2}, cpus_per_worker=2)
    begun = training.until(is_epoch)
    assert len(begun["workers"]) == 1

    grown = training.strike(nodes.add)
    assert len(grown["workers"]) == 2
    assert "2 workers in place of 1" in grown["notes"][-1]

    (_, newest) = nodes.nodes.values()
    shrunk = training.strike(nodes.remove, newest)
    assert len(shrunk["workers"]) == 1
    assert "1 workers in place of 2" in shrunk["notes"][-1]

    nodes.hold.unlink()
    ended = training.end()
    assert [count for _, count in ended["workers"]] == [1, 2, 1]
    assert ended["last_loss"] == pytest.approx(calm["last_loss"], abs=LOSS_TOLERANCE)


def test_a_lost_head_comes_back_and_the_training_never_knew(nodes, calm):
    training = train(nodes, "headless")
    begun = training.until(is_epoch)
    nodes.head.kill()
    gone = len(training.events())
    training.until(is_epoch, since=gone)
    nodes.start_head()
    nodes.hold.unlink()
    ended = training.end()
    assert ended["weights"] == calm["weights"]
    assert ended["restarts"] == begun["restarts"] == 0
