"""The spec: what is accepted, and what is said about the rest."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from hapredict.errors import SpecError
from hapredict.spec import Spec, build_spec, parse_spec, spec_schema

ROOT = Path(__file__).parents[2]
SMALLEST: dict[str, Any] = {"name": "order_risk", "data": {"sources": ["a.csv"], "target": "late"}}


def changed(**sections):
    """The smallest spec with sections changed; `data` is merged, the rest replaced."""
    data = {**SMALLEST["data"], **sections.pop("data", {})}
    return {**SMALLEST, **sections, "data": data}


def problems_of(raw):
    with pytest.raises(SpecError) as caught:
        build_spec(raw)
    return {problem.where: problem.what for problem in caught.value.problems}


def fields_of(section: type[BaseModel] = Spec, path: str = ""):
    """Each field of the spec with its path."""
    for name, field in section.model_fields.items():
        yield f"{path}{name}", field
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields_of(field.annotation, f"{path}{name}.")


FIELDS = dict(fields_of())
SCHEMA = jsonschema.Draft202012Validator(spec_schema())


def test_a_name_sources_and_a_target_are_enough():
    spec = build_spec(SMALLEST)
    assert spec.data.sources == ("a.csv",)
    assert spec.serving.min_replicas >= 2, "one replica is an outage in waiting"


def test_names_of_columns_may_be_in_any_script():
    text = "name: risk\ndata:\n  sources: [客户.csv]\n  target: 违约\n  columns: {性别: category}\n"
    spec = parse_spec(text)
    assert spec.data.target == "违约"
    assert spec.data.columns == {"性别": "category"}


def test_a_spec_cannot_be_changed():
    spec = build_spec(SMALLEST)
    with pytest.raises(ValueError, match="frozen"):
        spec.name = "other"


# What is wrong is said with its path


def test_an_unknown_key_gets_a_path_and_a_guess():
    found = problems_of(changed(control={"canary_share": [0.1]}))
    assert found == {"control.canary_share": "no such key; did you mean 'canary_shares'?"}


def test_an_unknown_key_at_the_top_gets_a_guess_too():
    assert "did you mean 'training'" in problems_of(changed(trainning={}))["trainning"]


def test_an_unknown_key_that_is_like_none_gets_no_guess():
    assert problems_of(changed(zzzzzz=1))["zzzzzz"] == "no such key"


def test_a_missing_key_is_named():
    assert problems_of({"name": "a"}) == {"data": "is required"}
    assert problems_of(changed() | {"data": {"sources": ["a"]}})["data.target"] == "is required"


def test_all_faults_are_told_at_once():
    raw = changed(serving={"min_replicas": 0}, training={"epochs_max": -1}, monitoring={"x": 1})
    assert set(problems_of(raw)) == {
        "serving.min_replicas",
        "training.epochs_max",
        "monitoring.x",
    }


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("data", "sources", []),
        ("data", "rows_min", 1),
        ("data", "task", "guess"),
        ("data", "columns", {"a": "blob"}),
        ("features", "bins_max", 1),
        ("features", "levels_max", 0),
        ("training", "dropout", 1),
        ("training", "learning_rate", 0),
        ("training", "learning_rate", float("nan")),
        ("training", "holdout_share", 0.5),
        ("training", "workers", 0),
        ("serving", "threshold", 1.1),
        ("serving", "body_bytes_max", 10),
        ("serving", "versions_kept", 1),
        ("monitoring", "clock", "sundial"),
        ("monitoring", "false_alarm_days", float("inf")),
        ("control", "evidence_min", 1),
        ("control", "canary_shares", [0.5, 0.1]),
        ("control", "canary_shares", [0.1, 0.1]),
        ("control", "canary_shares", [0, 0.5]),
        ("control", "canary_shares", [0.5, 1]),
        ("availability", "level", 5),
        ("availability", "objective", 100),
    ],
)
def test_a_value_out_of_bounds_is_refused_at_its_path(section, key, value):
    found = problems_of(changed(**{section: {key: value}}))
    assert all(where.startswith(f"{section}.{key}") for where in found), found


@pytest.mark.parametrize("name", ["", "Order", "1st", "a-b", "a b", "a/b", "ä", "x" * 64])
def test_a_name_that_cannot_be_part_of_a_url_is_refused(name):
    assert "name" in problems_of(SMALLEST | {"name": name})


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (changed(data={"time": "late"}), "three different columns"),
        (changed(data={"id": "late"}), "three different columns"),
        (changed(data={"time": "t", "id": "t"}), "three different columns"),
        (changed(data={"exclude": ["late"]}), "target"),
        (changed(monitoring={"clock": "event"}), "data.time"),
        (changed(serving={"min_replicas": 5, "max_replicas": 4}), "min_replicas=5 must be <="),
        (
            changed(availability={"level": 2}, serving={"min_replicas": 1}),
            "one replica cannot outlive its node",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused(raw, words):
    assert any(words in what for what in problems_of(raw).values())


# Anything that is not a spec is a SpecError, never another error


@pytest.mark.parametrize(
    "text",
    [
        "",
        "~",
        "[]",
        "a: [",
        "a: b: c",
        "just text",
        "\t",
        "{",
        "? [a]\n: b",
        "!!python/object:a {}",
    ],
)
def test_what_is_not_a_mapping_is_refused_with_the_files_name(text):
    with pytest.raises(SpecError, match=r"my\.yaml|required|no such key"):
        parse_spec(text, "my.yaml")


@given(st.text(max_size=200))
def test_any_text_is_a_spec_or_a_spec_error(text):
    try:
        assert isinstance(parse_spec(text), Spec)
    except SpecError as error:
        assert error.problems  # noqa: PT017 - either outcome is fine, silence is not


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.sampled_from([path for path in FIELDS if path.count(".") <= 1]), json_values)
def test_any_value_of_any_field_is_accepted_or_told_at_a_path(path, value):
    section, _, key = path.partition(".")
    raw = changed(**{section: {key: value}}) if key else SMALLEST | {section: value}
    try:
        build_spec(raw)
    except SpecError as error:
        assert all(problem.what for problem in error.problems)  # noqa: PT017


# Round trips and the schema

valid_specs = st.builds(
    lambda name, columns, shares, epochs, hidden, clock: {
        "name": name,
        "data": {
            "sources": ["a.csv", "b/*.parquet"],
            "target": "违约",
            "time": "at",
            "columns": columns,
        },
        "training": {"epochs_max": epochs, "hidden": hidden},
        "monitoring": {"clock": clock},
        "control": {"canary_shares": sorted(shares)},
    },
    name=st.from_regex(r"[a-z][a-z0-9_]{0,62}", fullmatch=True),
    columns=st.dictionaries(
        st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=8),
        st.sampled_from(["number", "category", "text", "time", "id"]),
        max_size=4,
    ),
    shares=st.sets(st.floats(0.001, 0.999), max_size=4),
    epochs=st.integers(1, 1000),
    hidden=st.lists(st.integers(1, 4096), max_size=4),
    clock=st.sampled_from(["wall", "event"]),
)


@given(valid_specs)
def test_a_valid_spec_comes_back_from_json_unchanged(raw):
    spec = build_spec(raw)
    assert build_spec(json.loads(spec.model_dump_json())) == spec


@settings(max_examples=15)
@given(valid_specs)
def test_a_valid_spec_comes_back_from_yaml_unchanged(raw):
    spec = build_spec(raw)
    text = yaml.safe_dump(spec.model_dump(mode="json"), allow_unicode=True)
    assert parse_spec(text) == spec


@pytest.mark.parametrize("path", FIELDS)
def test_each_field_says_what_it_is_and_why(path):
    field = FIELDS[path]
    annotation = field.annotation
    told = field.description or (getattr(annotation, "__doc__", "") or "")
    assert told.strip(), f"{path} has no sentence below it in spec.py"
    assert told.strip()[-1] in ".`", f"{path}: its sentence does not end"


def test_the_schema_is_valid_and_has_each_fields_sentence():
    schema = spec_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    text = json.dumps(schema)
    for path, field in FIELDS.items():
        if field.description:
            assert json.dumps(field.description)[1:-1] in text, path


@settings(max_examples=15)
@given(valid_specs)
def test_the_schema_accepts_what_the_spec_accepts(raw):
    SCHEMA.validate(raw)


def test_the_schema_refuses_unknown_keys():
    assert not SCHEMA.is_valid(changed(control={"canary_share": [0.1]}))


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda f: f.name)
def test_each_example_is_a_spec(file):
    assert parse_spec(file.read_text(encoding="utf-8"), file.name).name == file.stem


# Alerts


def test_alerts_go_to_sinks_of_one_kind_each():
    spec = build_spec(
        changed(
            alerts={
                "sinks": [
                    {"webhook": "https://a.example/hook", "secret_env": "KEY"},
                    {"alertmanager": "http://b.example:9093"},
                    {"log": True},
                ],
                "rules": [{"name": "high_risk", "when": "score > 0.9 and amount > 1000"}],
            }
        )
    )
    assert spec.alerts.rules[0].limit_per_hour == 60


@pytest.mark.parametrize(
    ("alerts", "where", "what"),
    [
        ({"sinks": [{}]}, "alerts.sinks.0", "name one of webhook"),
        ({"sinks": [{"log": True, "webhook": "http://a"}]}, "alerts.sinks.0", "name one of"),
        ({"sinks": [{"webhook": "ftp://a"}]}, "alerts.sinks.0.webhook", "pattern"),
        ({"sinks": [{"log": True, "secret_env": "K"}]}, "alerts.sinks.0", "is for a webhook"),
        ({"rules": [{"name": "a", "when": "score > 1"}]}, "alerts", "no sinks"),
        (
            {"sinks": [{"log": True}], "rules": [{"name": "a", "when": "f(score) > 1"}]},
            "alerts.rules.0.when",
            "is not allowed",
        ),
        (
            {"sinks": [{"log": True}], "rules": [{"name": "a", "when": "score > 1"}] * 2},
            "alerts.rules",
            "two rules have one name",
        ),
    ],
)
def test_faults_of_alerts_are_told_with_their_place(alerts, where, what):
    found = problems_of(changed(alerts=alerts))
    assert what in found[where]
