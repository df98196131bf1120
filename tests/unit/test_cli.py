"""The command line: what it prints, what it changes, and how it ends. No cluster is needed here."""

import json
import re
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from click.testing import CliRunner

from hapredict.cli import cli
from hapredict.control.runs import retrain_path
from hapredict.control.specs import remember, store_url, write_spec
from hapredict.registry import catalog
from hapredict.registry.catalog import Catalog
from hapredict.registry.store import decode_json, open_store
from hapredict.spec import spec_schema
from tests.support.bundles import spec_of
from tests.support.control import at, canarying, shadowing, steady, watching

MODEL = "flights"
GOOD = "name: flights\ndata: {sources: [a.csv], target: late}\n"


@pytest.fixture
def home(tmp_path):
    return tmp_path / "主 页 [1]"


@pytest.fixture
def run(home):
    """Runs a command from `home`; asserts how it ends, and returns what it printed."""

    def run(*words, code=0, **changes):
        result = CliRunner().invoke(cli, ["--home", str(home), *words], **changes)
        assert result.exit_code == code, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert "Traceback" not in result.output
        return result.stdout if code == 0 else result.stderr

    return run


@pytest.fixture
def applied(home):
    """A model that was applied: its catalog, holding what it is called with."""

    def applied(state=None, model=MODEL, **sections):
        spec = spec_of(model, **sections)
        url = store_url(spec, home)
        store = open_store(url)
        write_spec(store, spec)
        remember(home, model, url)
        book = Catalog(store, model)
        if state is not None:
            put(book, replace(state, model=model))
        return book

    return applied


def put(book, state):
    details = {"reason": "it was time", "at_s": 0.0, "event_s": at(9), "actor": "test"}
    return book.append(book.latest(), state, action="Publish", **details)


def spec_file(tmp_path, text):
    path = tmp_path / "spec.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


class TestHelp:
    def test_help_lists_every_command_with_a_sentence(self, run):
        shown = run("--help")
        for name, command in cli.commands.items():
            assert re.search(rf"^  {name} +\S", shown, re.MULTILINE), name
            assert command.get_short_help_str()

    @pytest.mark.parametrize("name", sorted(cli.commands))
    def test_each_command_explains_itself_and_its_options(self, run, name):
        run(name, "--help")
        for option in cli.commands[name].params:
            assert option.param_type_name == "argument" or option.help, option.name

    def test_help_needs_no_ray_no_keras_and_no_numpy(self):
        heavy = ["ray", "keras", "tensorflow", "numpy", "pandas", "pyarrow", "onnxruntime"]
        code = f"import sys, hapredict.cli; sys.exit(str([n for n in {heavy} if n in sys.modules]))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        assert done.stderr.decode().strip() == "[]"

    def test_an_unknown_command_or_option_is_wrong_use(self, run):
        assert "No such command 'predikt'" in run("predikt", code=2)
        assert "No such option" in run("history", "--odd", code=2)


class TestSpec:
    def test_the_schema_is_that_of_the_spec(self, run):
        assert json.loads(run("schema")) == json.loads(json.dumps(spec_schema()))

    def test_a_good_spec_is_said_to_be_good(self, run, tmp_path):
        path = spec_file(tmp_path, GOOD)
        assert "describes a model" in run("check", "--no-data", path)
        shown = json.loads(run("check", "--no-data", path, "-o", "json"))
        assert shown == {"name": "flights", "ok": True}

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            (GOOD + "trainig: {}\n", "trainig: no such key; did you mean 'training'?"),
            ("name: flights\n", "data: is required"),
            (GOOD.replace("flights", "Flüge"), "name:"),
            ("- a\n", "must be a mapping of keys; got list"),
            ("", "must be a mapping of keys"),
            ("name: [", "is not YAML"),
            ("name: Flüge".encode("latin-1"), "is not UTF-8"),
            (GOOD + "availability: {level: 3}\nserving: {min_replicas: 1}\n", "min_replicas >= 2"),
        ],
    )
    def test_a_bad_spec_is_wrong_use_and_says_where(self, run, tmp_path, text, told):
        shown = run("check", "--no-data", spec_file(tmp_path, text), code=2)
        assert "the spec is wrong" in shown
        assert told in shown

    def test_a_spec_that_is_not_there_is_wrong_use(self, run, tmp_path):
        assert "does not exist" in run("check", "--no-data", str(tmp_path / "gone.yaml"), code=2)
        run("check", "--no-data", str(tmp_path), code=2)
        run("check", code=2)


class TestWhichModel:
    READING = ("history", "models", "rollback", "promote", "abort", "resume", "retrain")

    @pytest.mark.parametrize("name", READING)
    def test_an_unknown_model_fails_and_names_those_that_are_known(self, run, applied, name):
        assert "none; see `hapredict apply`" in run(name, "flihgts", code=1)
        applied(steady())
        shown = run(name, "flihgts", code=1)
        assert "there is no model 'flihgts'" in shown
        assert shown.strip().endswith(": flights")

    def test_the_only_model_needs_no_name_and_one_of_two_does(self, run, applied):
        assert "name a model" in run("history", code=1)
        applied(steady())
        assert run("history") == run("history", MODEL)
        applied(steady(), model="routes")
        assert run("history", code=1).strip().endswith("flights, routes")
        run("history", "routes")

    def test_home_may_come_from_the_environment(self, applied, home):
        applied(steady())
        result = CliRunner(env={"HAPREDICT_HOME": str(home)}).invoke(cli, ["history"])
        assert result.exit_code == 0
        assert "it was time" in result.stdout


class TestReading:
    def test_history_shows_every_entry_oldest_first(self, run, applied):
        book = applied()
        assert run("history").strip() == "no entries"
        assert json.loads(run("history", "-o", "json")) == []
        for state in (steady(), shadowing(), canarying()):
            put(book, state)
        lines = run("history").strip().split("\n")
        assert [line.split()[0] for line in lines] == ["#", "1", "2", "3"]
        assert "v1, v2 in canary 10%" in lines[3]
        shown = json.loads(run("history", "-o", "json"))
        assert [entry["state"]["stage"] for entry in shown] == ["steady", "shadow", "canary"]
        assert shown == [entry.to_json() for entry in book.entries()]

    def test_models_shows_versions_and_their_roles(self, run, applied):
        applied(watching())
        assert re.search(r"v1 +previous .*\nv2 +champion ", run("models"))
        assert [version["number"] for version in json.loads(run("models", "-o", "json"))] == [1, 2]

    def test_a_model_without_versions_has_none_to_show(self, run, applied):
        applied()
        assert "has no version yet" in run("models", code=1)

    def test_another_form_of_output_is_wrong_use(self, run, applied):
        applied(steady())
        run("history", "-o", "yaml", code=2)

    def test_a_catalog_that_cannot_be_read_is_named(self, run, applied, home):
        applied(steady())
        (home / "store" / "catalog" / MODEL / "00000001.json").write_text("{")
        assert "00000001.json" in run("history", code=1)


CHANGES = [
    ("rollback", watching, {"champion": 1, "previous": None, "stage": "steady"}),
    ("promote", canarying, {"champion": 2, "previous": 1, "stage": "watch", "share": 0.0}),
    ("abort", shadowing, {"challenger": None, "stage": "steady"}),
    ("pause", steady, {"paused": "holiday"}),
    ("resume", lambda: catalog.pause(steady(), "holiday"), {"paused": ""}),
]


class TestChanges:
    @pytest.mark.parametrize(("verb", "state", "after"), CHANGES, ids=[row[0] for row in CHANGES])
    def test_a_change_by_hand_is_an_entry_with_its_reason(self, run, applied, verb, state, after):
        book = applied(state())
        run(verb, MODEL, "--reason", "holiday")
        entry = book.latest()
        assert (entry.sequence, entry.action) == (2, verb.capitalize())
        assert entry.reason == "holiday"
        assert re.fullmatch(r"\S.* at the command line", entry.actor)
        assert f"holiday ({entry.actor})" in run("history")
        assert {name: getattr(entry.state, name) for name in after} == after
        assert entry.term == steady().term

    @pytest.mark.parametrize(("verb", "state", "after"), CHANGES, ids=[row[0] for row in CHANGES])
    def test_a_dry_run_says_the_same_and_changes_nothing(self, run, applied, verb, state, after):
        book = applied(state())
        told = run(verb, "--reason", "holiday", "--dry-run")
        assert book.latest().sequence == 1
        assert told == "would change: " + run(verb, "--reason", "holiday")
        changed = {name for name in after if name != "previous"}
        assert all(name in told for name in changed)

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (("rollback",), "no previous champion"),
            (("rollback", "--to", "9"), "published are 1"),
            (("promote",), "shadow a version first"),
            (("abort",), "abort drops a challenger"),
            (("pause", "--reason", ""), "say why"),
            (("resume",), "neither paused nor frozen"),
        ],
    )
    @pytest.mark.parametrize("dry", [(), ("--dry-run",)])
    def test_what_the_catalog_forbids_is_refused_and_changes_nothing(
        self, run, applied, words, told, dry
    ):
        book = applied(steady())
        shown = run(*words, *dry, code=3)
        assert told in shown
        assert book.latest().sequence == 1

    def test_rolling_back_freezes_training_until_resume(self, run, applied):
        book = applied(watching())
        run("rollback", "--reason", "坏")
        assert book.latest().state.frozen == "rolled back by hand: 坏"
        run("resume")
        assert book.latest().state.frozen == ""

    def test_any_published_version_can_be_rolled_back_to(self, run, applied):
        book = applied(catalog.settle(watching(), at(50)))
        assert "champion v2 -> v1" in run("rollback", "--to", "1")
        assert book.latest().state.champion == 1

    def test_a_pause_needs_a_reason_and_only_rollback_takes_a_version(self, run, applied):
        book = applied(canarying())
        assert "--reason" in run("pause", code=2)
        assert "No such option" in run("promote", "--to", "2", code=2)
        assert book.latest().sequence == 1

    def test_before_the_first_version_there_is_nothing_to_change(self, run, applied):
        applied()
        assert "has no version yet" in run("promote", code=1)

    @pytest.mark.parametrize(
        ("clock", "low", "high"), [("event", at(9), at(9)), ("wall", at(365), 1e12)]
    )
    def test_a_change_happens_on_the_clock_of_the_model(self, run, applied, clock, low, high):
        book = applied(shadowing(), monitoring={"clock": clock})
        run("promote")
        entry = book.latest()
        assert low <= entry.event_s <= high
        assert entry.state.stage_since_s == entry.event_s
        assert entry.at_s > at(365)

    @pytest.mark.parametrize("term", [1, 2])
    def test_a_change_that_loses_a_race_looks_again(self, run, applied, monkeypatch, term):
        book = applied(shadowing())
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        latest, looks = Catalog.latest, []

        def raced(self):
            entry = latest(self)
            if not looks:
                looks.append(entry)
                put(book, catalog.share(catalog.fence(entry.state, term), 0.1, at(21)))
            return entry

        monkeypatch.setattr(Catalog, "latest", raced)
        assert "stage canary -> watch" in run("promote")
        monkeypatch.undo()
        assert [entry.state.stage for entry in book.entries()] == ["shadow", "canary", "watch"]
        assert book.latest().term == term

    def test_a_race_that_makes_the_change_illegal_is_refused(self, run, applied, monkeypatch):
        book = applied(shadowing())
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        latest, looks = Catalog.latest, []

        def raced(self):
            entry = latest(self)
            if not looks:
                looks.append(entry)
                put(book, catalog.abort(entry.state, at(21)))
            return entry

        monkeypatch.setattr(Catalog, "latest", raced)
        assert "shadow a version first" in run("promote", code=3)


class TestRetrain:
    def test_a_wish_to_retrain_waits_in_the_store(self, run, applied, home):
        applied(steady())
        store = open_store(str(home / "store"))
        assert "would ask" in run("retrain", "--reason", "价格变了", "--dry-run")
        assert not store.exists(retrain_path(MODEL))
        run("retrain", "--reason", "价格变了")
        path = retrain_path(MODEL)
        assert decode_json(store.get(path), path) == {"reason": "价格变了"}


class TestAsking:
    """`predict` and `feedback` up to the network; beyond it is tested on a real cluster."""

    @pytest.mark.parametrize("words", [("predict", "--rows"), ("feedback", "--labels")])
    def test_input_that_is_no_json_is_wrong_use(self, run, applied, tmp_path, words):
        applied(steady())
        name, option = words
        assert "is not JSON" in run(name, input="{", code=2)
        assert "is not JSON" in run(name, option, spec_file(tmp_path, b"\xff"), code=2)
        assert "does not exist" in run(name, option, str(tmp_path / "gone.json"), code=2)

    @pytest.mark.parametrize("name", ["predict", "feedback"])
    def test_without_a_cluster_or_a_url_nobody_can_be_asked(self, run, applied, home, name):
        applied(steady())
        shown = run(name, input="{}", code=1)
        assert "no cluster runs" in shown
        assert "hapredict up" in shown
        (home / "cluster.json").write_text("{")
        assert "no cluster runs" in run(name, input="{}", code=1)
