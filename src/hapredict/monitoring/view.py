"""What the monitor needs of one version: a bundle without its networks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hapredict.data.schema import Schema
from hapredict.monitoring.effects import places_of
from hapredict.registry.bundle import Bundle, Reference
from hapredict.sections_live import MonitoringSpec


@dataclass(frozen=True, slots=True)
class View:
    """One version, as the monitor sees it."""

    number: int
    schema: Schema
    reference: Reference
    rules: MonitoringSpec
    features: tuple[str, ...]
    bin_labels: tuple[tuple[str, ...], ...]
    """A readable name for each bin of each feature."""
    places: tuple[tuple[float, ...], ...]
    """Where the intervals of each feature lie (`effects.places_of`)."""

    @staticmethod
    def of(number: int, bundle: Bundle) -> "View":
        """The view of the version `number` that `bundle` holds."""
        plan = bundle.plan
        return View(
            number=number,
            schema=bundle.schema,
            reference=bundle.reference,
            rules=bundle.spec.monitoring,
            features=tuple(plan.features),
            bin_labels=tuple(tuple(plan.bin_labels(name)) for name in plan.features),
            places=places_of(plan),
        )

    def importance(self, feature: str) -> float:
        """The feature's share in what the scores hang on; equal shares where nobody measured."""
        known = self.reference.importance
        return known.get(feature, 0.0) if known else 1 / max(len(self.features), 1)

    def to_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "schema": self.schema.to_json(),
            "reference": self.reference.to_json(),
            "rules": self.rules.model_dump(mode="json"),
            "features": self.features,
            "bin_labels": self.bin_labels,
            "places": self.places,
        }

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> "View":
        return View(
            number=raw["number"],
            schema=Schema.from_json(raw["schema"]),
            reference=Reference.from_json(raw["reference"]),
            rules=MonitoringSpec.model_validate(raw["rules"]),
            features=tuple(raw["features"]),
            bin_labels=tuple(tuple(labels) for labels in raw["bin_labels"]),
            places=tuple(tuple(places) for places in raw["places"]),
        )
