"""What an app says about itself and its model: readiness, metadata, schema. All plain values."""

from collections.abc import Mapping
from typing import Any, Protocol

from hapredict.data.schema import Schema
from hapredict.errors import UnknownName
from hapredict.serving.tensors import OUTPUTS
from hapredict.training.extras import UNCERTAINTY, quantiles_among


class Described(Protocol):
    """What descriptions need of a replica."""

    @property
    def model(self) -> str: ...
    @property
    def ready(self) -> bool: ...
    @property
    def schema(self) -> Schema: ...
    @property
    def extras(self) -> tuple[str, ...]: ...
    @property
    def model_version(self) -> int: ...
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


def v1_model(replica: Described) -> dict[str, Any]:
    """The model for people and for clients of KServe v1 and TensorFlow Serving."""
    if not replica.ready:
        return {"name": replica.model, "ready": False, "model_version_status": []}
    return {
        "name": replica.model,
        "ready": True,
        "model_version": replica.model_version,
        "schema": replica.schema.to_json(),
        "example": replica.schema.example(),
        "model_version_status": [
            {
                "version": str(number),
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
            for number in versions_of(replica)
        ],
        "detail": replica.detail(),
    }


def v2_model(replica: Described) -> dict[str, Any]:
    """The model's metadata in the Open Inference Protocol."""
    schema = replica.schema
    inputs = [_tensor(name, "FP64") for name in schema.numbers]
    inputs += [_tensor(name, "BYTES") for name in schema.categories]
    optional = [name for name in (schema.time, schema.id) if name is not None]
    inputs += [{**_tensor(name, "BYTES"), "parameters": {"optional": True}} for name in optional]
    decision = "FP32" if schema.task == "regression" else "BYTES"
    kinds = {"score": "FP32", "decision": decision, "model_version": "INT64"}
    outputs = [_tensor(name, kinds.get(name, "BYTES")) for name in OUTPUTS]
    outputs[0]["shape"] = [-1, schema.outputs]
    if schema.task == "multiclass":
        outputs[0]["parameters"] = {"classes": schema.classes}
    if UNCERTAINTY in replica.extras:
        outputs.append(_tensor("uncertainty", "FP32"))
    levels = list(quantiles_among(replica.extras))
    if levels:
        tensor = {**_tensor("quantiles", "FP32"), "shape": [-1, len(levels)]}
        outputs.append({**tensor, "parameters": {"quantiles": levels}})
    return {
        "name": replica.model,
        "versions": [str(number) for number in versions_of(replica)],
        "platform": "hapredict_onnx",
        "inputs": inputs,
        "outputs": outputs,
    }


def _tensor(name: str, datatype: str) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [-1]}
