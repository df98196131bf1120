"""A drill in a lab: a model is applied to a cluster of many nodes, and all of it is broken."""

import time
from collections.abc import Callable, Sequence

import yaml

from hapredict.drill.faults import faults_of
from hapredict.drill.golden import questions
from hapredict.drill.outcome import Drill
from hapredict.drill.ray_drill import Plan, drill
from hapredict.errors import ClusterUnavailable, NotFound
from hapredict.registry.catalog import Catalog
from hapredict.registry.store import open_store
from hapredict.spec import Spec
from hapredict.testing.ray_lab import Lab
from hapredict.testing.ray_lab_site import LabSite

APPLY_S = 600.0
READY_S = 60.0


def drill_lab(
    lab: Lab,
    spec: Spec,
    *,
    level: int,
    names: Sequence[str] = (),
    plan: Plan | None = None,
    tell: Callable[[str], None],
) -> Drill:
    """Apply a model to a lab that runs, and drill it there. Raises ClusterUnavailable.

    The lab's home is its store, which all of its nodes see.
    """
    url = apply_in(lab, spec)
    entry = Catalog(open_store(str(lab.home / "store")), spec.name).latest()
    if entry is None:
        raise NotFound(f"{spec.name!r} was applied and has no catalog")
    return drill(
        spec.name,
        level,
        names or faults_of(level),
        url,
        questions(open_store(str(lab.home / "store")), entry.state),
        lambda load: LabSite(lab, load),
        plan or Plan(spec.availability.objective),
        tell,
    )


def apply_in(lab: Lab, spec: Spec) -> str:
    """Apply a model on a node, as its team would, and wait until each worker's ingress has it.

    Its URL behind the balancer. Raises ClusterUnavailable with what the command said.
    """
    file = lab.folder / f"{spec.name}.yaml"
    file.write_text(yaml.safe_dump(spec.model_dump(mode="json")), encoding="utf-8")
    lab.call(lab.workers[0], ["hapredict", "apply", str(file)], wait_s=APPLY_S)
    wait_spread(lab)
    return f"{lab.url}/{spec.name}/v1/models/{spec.name}:predict"


def wait_spread(lab: Lab) -> None:
    """Until there are replicas on two nodes: where they start is chance, and control mends it.

    Raises ClusterUnavailable.
    """
    deadline_s = time.monotonic() + READY_S
    while True:
        serving = [n for n in lab.workers if lab.nodes[n].pids("ray::ServeReplica:")]
        if len(serving) >= min(2, len(lab.workers)):
            return
        if time.monotonic() > deadline_s:
            raise ClusterUnavailable(f"all replicas are on {serving} after {READY_S:g} s")
        time.sleep(0.5)
