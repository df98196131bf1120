"""The spec: one YAML file a model, checked whole before anything is done."""

import difflib
import re
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from hapredict.errors import Problem, SpecError
from hapredict.sections import DataSpec, FeatureSpec, Section, TrainingSpec, TuningSpec
from hapredict.sections_alerts import AlertsSpec
from hapredict.sections_live import AvailabilitySpec, ControlSpec, MonitoringSpec, ServingSpec

_FORM = re.compile(r"^(constrained-|literal\[|function-|dict\[|tuple\[|WorkerRange$|float$|int$)")
"""What pydantic puts into a path to say which form of a field it tried."""


class Spec(Section):
    """All that hapredict is told about one model."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")
    """The model's name: small letters, digits and underscores. It is part of every URL."""
    store: str | None = None
    """Where everything that must survive is kept: `file://`, `s3://`, `gs://`, `az://`, or a path
    relative to hapredict's home. Without it: `store` in hapredict's home."""
    data: DataSpec
    features: FeatureSpec = FeatureSpec()
    training: TrainingSpec = TrainingSpec()
    tuning: TuningSpec = TuningSpec()
    serving: ServingSpec = ServingSpec()
    monitoring: MonitoringSpec = MonitoringSpec()
    control: ControlSpec = ControlSpec()
    availability: AvailabilitySpec = AvailabilitySpec()
    alerts: AlertsSpec = AlertsSpec()

    @model_validator(mode="after")
    def _check(self) -> "Spec":
        data = self.data
        special = [name for name in (data.target, data.time, data.id) if name is not None]
        if len(set(special)) != len(special):
            message = "data.target, data.time and data.id must be three different columns"
            raise ValueError(message)
        if data.target in data.exclude:
            message = f"data.exclude names the target {data.target!r}; a target cannot be left out"
            raise ValueError(message)
        if self.monitoring.clock == "event" and data.time is None:
            message = "monitoring.clock is 'event', which needs data.time to name the time column"
            raise ValueError(message)
        if self.availability.level >= 2 and self.serving.min_replicas < 2:
            message = (
                f"availability.level {self.availability.level} needs serving.min_replicas >= 2: "
                "one replica cannot outlive its node"
            )
            raise ValueError(message)
        return self


def parse_spec(text: str, where: str = "spec") -> Spec:
    """The spec in a YAML text. Raises SpecError that lists every fault with its path."""
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError((Problem(where, f"is not YAML: {error}"),)) from error
    if not isinstance(raw, Mapping):
        raise SpecError((Problem(where, f"must be a mapping of keys; got {type(raw).__name__}"),))
    return build_spec(raw)


def build_spec(raw: Mapping[str, Any]) -> Spec:
    """The spec in a mapping. Raises SpecError that lists every fault with its path."""
    try:
        return Spec.model_validate(raw)
    except ValidationError as error:
        raise SpecError(_problems(error)) from None


def spec_schema() -> dict[str, Any]:
    """The spec as JSON Schema, with each field's sentence, for editors and other tools."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Spec.model_json_schema(),
        "title": "hapredict spec",
    }


def _problems(error: ValidationError) -> tuple[Problem, ...]:
    """One problem a path: what each form of a field says against it is joined by "or"."""
    found: dict[str, list[Problem]] = {}
    for fault in error.errors():
        problem = _problem(fault)
        found.setdefault(problem.where, []).append(problem)
    problems = []
    for where, several in found.items():
        said = dict.fromkeys(problem.what for problem in several)
        problems.append(Problem(where, "; or: ".join(said)))
    return tuple(problems)


def _problem(fault: Any) -> Problem:
    # a field of several forms adds the form's name to the path, which nobody wrote
    path = ".".join(str(part) for part in _written(fault["loc"]))
    if fault["type"] == "extra_forbidden":
        guess = difflib.get_close_matches(str(fault["loc"][-1]), _known_keys(fault["loc"][:-1]), 1)
        return Problem(path, "no such key" + (f"; did you mean {guess[0]!r}?" if guess else ""))
    if fault["type"] == "missing":
        return Problem(path, "is required")
    message = fault["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(fault["input"], Mapping) else f" (got {fault['input']!r})"
    return Problem(path, f"{message}{shown}")


def _written(loc: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(part for part in loc if not (isinstance(part, str) and _FORM.search(part)))


def _known_keys(loc: tuple[Any, ...]) -> list[str]:
    section: Any = Spec
    for part in loc:
        field = getattr(section, "model_fields", {}).get(part)
        if field is None:
            return []
        section = field.annotation
    return list(getattr(section, "model_fields", {}))
