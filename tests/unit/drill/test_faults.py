"""Each fault of the table breaks what it says, is healed whatever happens, and knows its end."""

import signal

import pytest

from hapredict.drill.faults import FAULTS, HEAD, Fault, Process, faults_of
from hapredict.errors import NotFound

NODES = ("w1", "w2")


class Town:
    """A site in memory: processes and nodes that die, and come back when time passes."""

    def __init__(self, nodes=NODES):
        self.workers = nodes
        self.pid = 100
        self.lost, self.cuts, self.store_away = set(), {}, False
        self.processes = {
            "replica": [],
            "monitor": [],
            "controller": [],
            "learner": [],
            "serve controller": [],
            "ingress manager": [],
            "haproxy": [],
            "gcs": [],
        }
        for node in nodes or (HEAD,):
            for part in ("replica", "ingress manager", "haproxy"):
                self.begin(part, node)
        for part in ("monitor", "controller", "learner"):
            self.begin(part, (nodes or (HEAD,))[0])
        for part in ("serve controller", "gcs"):
            self.begin(part, HEAD)
        self.owed = []

    def begin(self, part, node):
        self.pid += 1
        self.processes[part].append(Process(node, self.pid))

    def find(self, part):
        found = self.processes[part]
        return [one for one in found if one.node not in self.lost and one.pid > 0]

    def signal(self, process, number):
        assert number in {signal.SIGKILL, signal.SIGSTOP}
        for part, found in self.processes.items():
            if process in found:
                found.remove(process)
                self.owed.append((part, process.node))
                if part == "gcs":
                    self.lose(HEAD)
                    self.bring_back(HEAD)

    def nodes(self):
        return self.workers

    def answering(self):
        return len([one for one in self.find("replica") if one.node not in self.cuts])

    def lose(self, node):
        self.lost.add(node)
        for part, found in self.processes.items():
            for one in [one for one in found if one.node == node]:
                found.remove(one)
                self.owed.append((part, node))

    def bring_back(self, node):
        self.lost.discard(node)

    def cut(self, node, direction):
        self.cuts[node] = direction

    def mend(self, node):
        self.cuts.pop(node, None)

    def store(self, *, away):
        self.store_away = away

    def pass_time(self):
        owed, self.owed = self.owed, []
        for part, node in owed:
            self.begin(part, node)


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_fault_begins_is_healed_and_ends(name):
    site, fault = Town(), FAULTS.find(name)()
    assert fault.name == name
    assert fault.inject(site)
    if name == "store-away":
        assert site.store_away
    elif not site.cuts:
        assert not fault.restored(site)
    fault.heal(site)
    site.pass_time()
    assert fault.restored(site)
    assert not site.lost
    assert not site.cuts
    assert not site.store_away


@pytest.mark.parametrize("name", [name for name in FAULTS if FAULTS.find(name)().level == 2])
def test_one_machine_has_no_node_to_lose(name):
    site, fault = Town(nodes=()), FAULTS.find(name)()
    with pytest.raises(NotFound, match="several nodes"):
        fault.inject(site)
    fault.heal(site)
    assert not site.lost
    assert not site.cuts


def test_what_does_not_run_cannot_be_broken():
    site = Town()
    site.processes["learner"].clear()
    with pytest.raises(NotFound, match="no learner runs"):
        FAULTS.find("learner-kill")().inject(site)


def test_an_ingress_is_back_only_when_it_is_back_on_its_node():
    site, fault = Town(), FAULTS.find("haproxy-kill")()
    fault.inject(site)
    site.owed.clear()
    site.begin("haproxy", "w2")
    assert not fault.restored(site)
    site.begin("haproxy", "w1")
    assert fault.restored(site)


def test_a_level_promises_to_survive_what_the_levels_below_it_do():
    for level in (1, 2, 3, 4):
        assert set(faults_of(level)) <= set(faults_of(min(4, level + 1)))
        assert all(FAULTS.find(name)().level <= level for name in faults_of(level))
    assert "node-kill" in faults_of(2)
    assert "node-kill" not in faults_of(1)


def test_a_user_names_a_fault_of_his_own():
    assert isinstance(FAULTS.find(f"{__name__}:Own")(), Fault)


class Own(Fault):
    """A fault that somebody else wrote."""

    name = "own"

    def inject(self, site):
        return "nothing"

    def heal(self, site):
        pass

    def restored(self, site):
        return True
