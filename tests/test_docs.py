"""What the documents say is so: links, commands, specs, layout, words."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml

from hapredict.spec import Spec, build_spec, spec_schema

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
COMMAND = re.compile(r"\bhapredict ([a-z][a-z-]+)\b")
PATH = re.compile(r"`((?:src|tests|docs|jobs|examples|deploy|benchmarks|notebooks)/[\w./-]*)`")


def shown(document: Path, *languages: str) -> list[str]:
    """The code blocks of a document in these languages."""
    text = document.read_text(encoding="utf-8")
    return [code for language, code in BLOCK.findall(text) if language in languages]


def commands_in(document: Path) -> set[str]:
    """Commands that a document tells people to type: in code, not in prose."""
    text = document.read_text(encoding="utf-8")
    code = [*re.findall(r"`([^`\n]+)`", BLOCK.sub("", text)), *shown(document, "sh")]
    return {name for part in code for name in COMMAND.findall(part)}


@pytest.fixture(params=DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def document(request):
    return request.param


def test_each_relative_link_leads_somewhere(document):
    targets = [link for link in LINK.findall(document.read_text("utf-8")) if "://" not in link]
    gone = [link for link in targets if not (document.parent / link.partition("#")[0]).exists()]
    assert not gone


def test_each_path_in_code_exists(document):
    gone = [
        path for path in PATH.findall(document.read_text("utf-8")) if not (ROOT / path).exists()
    ]
    assert not gone


def test_each_command_exists(document):
    cli = importlib.import_module("hapredict.cli")
    unknown = commands_in(document) - set(cli.cli.commands)
    assert not unknown, f"commands that `hapredict --help` does not list: {sorted(unknown)}"


def test_each_spec_is_valid(document):
    for code in shown(document, "yaml", "yml"):
        raw = yaml.safe_load(code)
        if isinstance(raw, dict) and {"name", "data"} <= set(raw):
            assert build_spec(raw).name == raw["name"]


def test_each_json_in_the_documents_is_json(document):
    for code in shown(document, "json"):
        json.loads(code)


def test_each_python_in_the_documents_compiles(document):
    for code in shown(document, "python"):
        compile(code, str(document), "exec", flags=0x2000)  # top-level await, as in a notebook


def test_the_readme_shows_a_spec():
    assert any("data:" in code for code in shown(ROOT / "README.md", "yaml"))


def test_each_command_has_help():
    cli = importlib.import_module("hapredict.cli")
    without = [name for name, command in cli.cli.commands.items() if not command.help]
    assert not without


def test_the_tour_shows_the_main_commands():
    assert {"up", "check", "apply", "status", "history", "rollback", "down"} <= commands_in(
        ROOT / "README.md"
    )


def test_make_has_each_target_that_the_documents_name(document):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    text = document.read_text(encoding="utf-8")
    code = [*re.findall(r"`([^`\n]+)`", BLOCK.sub("", text)), *shown(document, "sh")]
    named = {name for part in code for name in re.findall(r"\bmake ([a-z]+)\b", part)}
    assert named <= targets


def test_each_field_of_the_spec_is_documented():
    """`hapredict schema` is the reference: a field without a sentence would be a riddle."""
    schema = spec_schema()
    sections = {"": schema, **schema["$defs"]}
    riddles = [
        f"{section or 'Spec'}.{name}"
        for section, body in sections.items()
        for name, field in body.get("properties", {}).items()
        if not (field.get("description") or "$ref" in field or "$ref" in str(field.get("allOf")))
    ]
    assert not riddles


def test_the_example_uses_keys_that_matter_and_no_others():
    text = (ROOT / "examples" / "flight_delay.yaml").read_text(encoding="utf-8")
    assert set(yaml.safe_load(text)) <= set(Spec.model_fields)


def test_the_architecture_names_each_folder():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = [path.name for path in (ROOT / "src" / "hapredict").iterdir() if path.is_dir()]
    assert not [name for name in folders if name != "__pycache__" and f"{name}/" not in text]


def test_each_decision_has_a_number_of_its_own_and_a_link_in_the_architecture():
    files = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [int(file.name[:4]) for file in files]
    assert len(set(numbers)) == len(numbers)
    titles = [file.read_text(encoding="utf-8").partition(".")[0] for file in files]
    assert titles == [f"# {number}" for number in numbers]
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert not [file.name for file in files if file.name not in text]


def test_each_decision_says_what_it_costs():
    for file in (ROOT / "docs" / "decisions").glob("*.md"):
        text = file.read_text(encoding="utf-8").lower()
        assert "**choice" in text, file.name
        assert "cost" in text, file.name


def test_the_glossary_is_in_order_and_says_each_word_once():
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", text, re.MULTILINE)
    assert words == sorted(set(words))


# The example's data


def _prepare_flights():
    found = importlib.util.spec_from_file_location(
        "prepare_flights", ROOT / "examples" / "prepare_flights.py"
    )
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_flight_in_the_examples_has_each_column_but_the_answer():
    body = json.loads((ROOT / "examples" / "one_flight.json").read_text(encoding="utf-8"))
    (row,) = body["instances"]
    assert list(row) == [name for name in _prepare_flights().COLUMNS if name != "late"]


def test_flights_are_prepared_alike_each_time_and_keep_what_is_missing(tmp_path):
    prepare = _prepare_flights().prepare
    once = prepare(tmp_path / "a", share=0.02, seed=3)
    again = prepare(tmp_path / "b", share=0.02, seed=3)
    assert [path.name for path in once] == [f"2013-{month:02}.parquet" for month in range(1, 13)]
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]
    import pandas as pd

    year = pd.concat([pd.read_parquet(path) for path in once])
    assert not year["flight_id"].duplicated().any()
    assert set(year["late"].dropna()) == {0, 1}
    assert year["late"].isna().any(), "flights that never arrived have no label"
    assert year["plane_age"].isna().any()
    # five in the morning of a New York winter is ten in UTC
    winter = year[(year["dep_hour"] == 5) & (year["time_hour"] < "2013-02-01")]
    assert set(winter["time_hour"].dt.hour) == {10}
