"""Where a search looks: which fields of `training` it may change, to what, and what came of it.

Settings are values by dotted name, as people write them: `{"family": "trees", "trees.depth_max":
6}`. What changes how a model is judged (shares, seeds, weights of classes) is no setting: a search
over it would compare losses that mean different things.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from pydantic import ValidationError

from hapredict.errors import Problem, SpecError
from hapredict.sections import TrainingSpec, TreesSpec, TuningSpec
from hapredict.training.families import Choices, Family, find_family

Settings = Mapping[str, Any]
"""Fields of `training` by dotted name, `family` among them."""

NETWORK_FIELDS = ("learning_rate", "batch_rows", "weight_decay", "epochs_max", "precision")
"""What every network has."""
LAYER_FIELDS = ("hidden", "dropout", "members")
"""What some networks have: those whose own space names it."""
TREE_FIELDS = tuple(f"trees.{name}" for name in TreesSpec.model_fields)


@dataclass(frozen=True, slots=True)
class Space:
    """The choices of a search, by family and field."""

    families: Mapping[str, Mapping[str, Choices]]
    own: Settings
    """The spec's own settings: the first trial."""

    @property
    def size(self) -> int:
        """How many different settings there are, without the spec's own if it lies outside."""
        return sum(
            prod(len(choices) for choices in fields.values()) for fields in self.families.values()
        )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All settings."""
        for family, fields in self.families.items():
            for values in product(*fields.values()):
                yield {"family": family, **dict(zip(fields, values, strict=True))}

    def __contains__(self, settings: object) -> bool:
        """Whether each value is one of the choices."""
        if not isinstance(settings, Mapping) or settings.get("family") not in self.families:
            return False
        fields = self.families[settings["family"]]
        return set(settings) == {"family", *fields} and all(
            settings[name] in choices for name, choices in fields.items()
        )


def space_of(training: TrainingSpec, tuning: TuningSpec) -> Space:
    """The space that a spec describes.

    Each family brings its own; the spec's own values are choices too. `tuning.space` replaces the
    choices of the fields that it names, and nothing else. Raises SpecError, with a problem for
    each field that no family has and each choice that the spec would refuse; UnknownName.
    """
    families = tuning.families or (training.family,)
    asked = {name: tuple(choices) for name, choices in tuning.space.items()}
    problems = [_unknown(name, families) for name in asked if not _owners(name, families)]
    problems += [
        Problem(f"tuning.space.{name}", "is empty; give at least one choice")
        for name, choices in asked.items()
        if not choices
    ]
    problems += [fault for name in asked for fault in _refused(training, name, asked[name])]
    if problems:
        raise SpecError(tuple(problems))
    fields: dict[str, Mapping[str, Choices]] = {}
    for name in families:
        family = find_family(name)
        usual = {
            field: _with_own(choices, _get(training, field))
            for field, choices in family.space.items()
        }
        fields[name] = {**usual, **{key: asked[key] for key in asked if _has(family, key)}}
    own_names = fields.get(training.family, {})
    own = {"family": training.family, **{name: _get(training, name) for name in own_names}}
    return Space(fields, own)


def change(training: TrainingSpec, settings: Settings) -> TrainingSpec:
    """The spec with the settings in place. Raises ValidationError if a value is no value."""
    raw = training.model_dump()
    for name, value in settings.items():
        section, _, field = name.rpartition(".")
        (raw[section] if section else raw)[field] = value
    return TrainingSpec.model_validate(raw)


def patch(training: TrainingSpec, settings: Settings) -> dict[str, Any]:
    """What a spec must say to have the settings: JSON values of the fields that change, nested as
    in the YAML file; {} if none does.
    """
    changed: dict[str, Any] = {}
    for name in sorted(settings):
        value = settings[name]
        if _get(training, name) == value:
            continue
        section, _, field = name.rpartition(".")
        place = changed.setdefault(section, {}) if section else changed
        place[field] = list(value) if isinstance(value, tuple) else value
    return {"training": changed} if changed else {}


def key_of(settings: Settings) -> str:
    """Settings as one line: equal for equal settings."""
    return json.dumps(dict(settings), sort_keys=True)


def from_json(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that went through JSON, which knows no tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}


def difference(settings: Settings, own: Settings) -> str:
    """What the settings change, as one short line."""
    names = sorted(settings, key=lambda name: (name != "family", name))
    told = [
        f"{name} {_short(settings[name])}"
        for name in names
        if name not in own or own[name] != settings[name]
    ]
    return ", ".join(told) or "the spec's own"


def _short(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "x".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _get(training: TrainingSpec, name: str) -> Any:
    found: Any = training
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _with_own(choices: Choices, own: Any) -> Choices:
    """The choices, grown by the spec's own value, and in order if all are numbers."""
    if own in choices:
        return choices
    more = (*choices, own)
    if all(isinstance(choice, int | float) for choice in more):
        return tuple(sorted(more))
    return more


def _has(family: Family, name: str) -> bool:
    if name in family.space:
        return True
    return name in (NETWORK_FIELDS if family.kind == "network" else TREE_FIELDS)


def _owners(name: str, families: tuple[str, ...]) -> list[str]:
    return [family for family in families if _has(find_family(family), name)]


def _unknown(name: str, families: tuple[str, ...]) -> Problem:
    where = f"tuning.space.{name}"
    if name in (*NETWORK_FIELDS, *LAYER_FIELDS, *TREE_FIELDS):
        return Problem(where, f"is no field of {' or '.join(families)}; see tuning.families")
    if name == "family":
        return Problem(where, "name families in tuning.families")
    known = dict.fromkeys(
        field
        for family in families
        for field in (
            *find_family(family).space,
            *(NETWORK_FIELDS if find_family(family).kind == "network" else TREE_FIELDS),
        )
    )
    return Problem(where, f"cannot be searched; known: {', '.join(known)}")


def _refused(training: TrainingSpec, name: str, choices: Choices) -> Iterator[Problem]:
    if name not in (*NETWORK_FIELDS, *LAYER_FIELDS, *TREE_FIELDS):
        return
    for choice in choices:
        try:
            change(training, {name: choice})
        except ValidationError as error:
            said = error.errors()[0]["msg"].removeprefix("Value error, ")
            yield Problem(f"tuning.space.{name}", f"{said} (got {choice!r})")
