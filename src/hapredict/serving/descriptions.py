"""What an app says about itself and its model: readiness, metadata, schema. All plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Protocol

from hapredict.data.schema import Schema
from hapredict.errors import UnknownName
from hapredict.features.plan import FeaturePlan
from hapredict.features.typical import Typical
from hapredict.serving.tensors import output_shapes
from hapredict.serving.v2 import EXTENSIONS
from hapredict.spec import Spec


@dataclass(frozen=True, slots=True)
class About:
    """What is told of one version: what it takes, what it says, and what it learned from."""

    version: int
    schema: Schema
    extras: tuple[str, ...]
    """What it says beside its scores, by name."""
    plan: FeaturePlan
    typical: Typical
    """A typical row."""


class Described(Protocol):
    """What descriptions need of a replica."""

    @property
    def model(self) -> str: ...
    @property
    def ready(self) -> bool: ...
    @property
    def spec(self) -> Spec: ...
    @property
    def schema(self) -> Schema: ...
    def about(self, version: int | None = None) -> About: ...
    def detail(self) -> dict[str, Any]: ...


def readiness(replica: Described, *, stopping: bool) -> dict[str, Any]:
    """Whether the replica may get requests, why not (`reasons`), and the replica's detail."""
    detail = replica.detail()
    reasons: list[str] = []
    if stopping:
        reasons.append("the replica is shutting down")
    if not replica.ready:
        reasons.append(f"no version of model {replica.model!r} is in service yet")
        if detail.get("store_trouble"):
            reasons.append(str(detail["store_trouble"]))
        refused: Mapping[str, str] = detail.get("refused") or {}
        reasons += [f"version {number} was refused: {why}" for number, why in refused.items()]
    return {**detail, "ready": not reasons, "reasons": reasons}


def versions_of(replica: Described) -> list[int]:
    """Versions that can be asked for by number."""
    return [int(number) for number in replica.detail().get("versions", ())]


def check_version(replica: Described, version: int | None) -> None:
    """Raises UnknownName if `version` is asked for and not loaded."""
    if version is None:
        return
    known = versions_of(replica)
    if version not in known:
        kind = f"loaded version of model {replica.model!r}"
        raise UnknownName(kind, str(version), tuple(map(str, known)))


def v1_models(replica: Described) -> dict[str, Any]:
    """The models here, as KServe v1 lists them: one."""
    return {"models": [replica.model]}


def v1_model(replica: Described) -> dict[str, Any]:
    """The model for people and for clients of KServe v1 and TensorFlow Serving."""
    if not replica.ready:
        return {"name": replica.model, "ready": False, "model_version_status": []}
    about = replica.about()
    return {
        "name": replica.model,
        "ready": True,
        "model_version": about.version,
        "schema": about.schema.to_json(),
        "example": example(about),
        "model_version_status": [_status(number) for number in versions_of(replica)],
        "detail": replica.detail(),
    }


def v1_version(replica: Described, version: int | None) -> dict[str, Any]:
    """One version, as TensorFlow Serving tells of it. Raises UnknownName if it is not loaded."""
    about = replica.about(version)
    return {
        "name": replica.model,
        "ready": True,
        "model_version": about.version,
        "model_version_status": [_status(about.version)],
    }


def v2_server() -> dict[str, Any]:
    """The server's metadata in the Open Inference Protocol."""
    try:
        number = metadata.version("hapredict")
    except metadata.PackageNotFoundError:  # run from a folder that nobody installed
        number = "unknown"
    return {"name": "hapredict", "version": number, "extensions": list(EXTENSIONS)}


def v2_model(replica: Described, version: int | None = None) -> dict[str, Any]:
    """The metadata of the champion or of a version, in the Open Inference Protocol.

    Raises UnknownName for a version that is not loaded, TemporaryError if nothing is.
    """
    about = replica.about(version)
    schema = about.schema
    inputs = [_tensor(name, "FP64") for name in schema.numbers]
    inputs += [_tensor(name, "BYTES") for name in schema.categories]
    needed = schema.time if replica.spec.monitoring.clock == "event" else None
    for name in (schema.time, schema.id):
        if name is not None:
            optional = {} if name == needed else {"parameters": {"optional": True}}
            inputs.append({**_tensor(name, "BYTES"), **optional})
    return {
        "name": replica.model,
        "versions": [str(number) for number in versions_of(replica)],
        "platform": "hapredict_onnx",
        "inputs": inputs,
        "outputs": [
            {
                **_tensor(tensor.name, tensor.datatype, tensor.shape),
                **({"parameters": tensor.parameters} if tensor.parameters else {}),
            }
            for tensor in output_shapes(schema, about.extras)
        ],
    }


def example(about: About) -> dict[str, Any]:
    """A row that the model takes: typical values, and a time and an id where it has those."""
    return {**about.schema.example(), **about.typical}


def _status(number: int) -> dict[str, Any]:
    return {
        "version": str(number),
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }


def _tensor(name: str, datatype: str, shape: Sequence[int] = (-1,)) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}
