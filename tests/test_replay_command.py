"""`hapredict replay` from files to a table: what it prints, keeps and refuses. No cluster runs."""

import json

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from hapredict.cli import cli
from tests.support.pasts import columns_of_past, spec_of_past

POLICIES = "never,20d,ours"


@pytest.fixture
def run(tmp_path):
    """Writes a table and a spec, runs the command, and asserts how it ends."""

    def run(*words, code=0, spec=None, columns=None):
        home = tmp_path / "家"
        frame = pd.DataFrame(columns if columns is not None else columns_of_past())
        frame["at"] = pd.to_datetime(frame["at"], unit="s", utc=True)
        (home / "past").mkdir(parents=True, exist_ok=True)
        half = len(frame) // 2
        frame[half:].to_parquet(home / "past" / "b.parquet", index=False)
        frame[:half].to_csv(home / "past" / "a.csv", index=False)
        told = (spec or spec_of_past()).model_dump(mode="json", exclude_defaults=True)
        told["data"]["sources"] = ["past/*"]
        (home / "orders.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
        command = ["--home", str(home), "replay", str(home / "orders.yaml"), *words]
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return (result.stdout if code == 0 else result.stderr), home

    return run


def test_policies_are_compared_in_a_table_and_a_figure(run):
    text, home = run("--policies", POLICIES, "--start", "0.4")
    assert all(word in text for word in (*POLICIES.split(","), "Brier", "AUC", "figure"))
    assert (home / "replay" / "orders.html").is_file()
    assert list((home / "replay" / "models").glob("*.npz"))


def test_json_holds_all_of_it_and_a_second_run_says_the_same(run):
    words = ("--policies", POLICIES, "--start", "0.4", "-o", "json", "--sample", "0.8")
    one, two = (json.loads(run(*words)[0]) for _ in range(2))
    assert [line["policy"] for line in one["lines"]] == POLICIES.split(",")
    assert one["best_schedule"] == "20d"
    assert one == two


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--policies", "never,sometimes"], 2, "there is no policy 'sometimes'"),
        (["--start", "in May"], 2, "neither a date"),
        (["--start", "2025-03-01"], 1, "too little history"),
        (["--label-delay", "-1"], 2, "--label-delay"),
    ],
)
def test_wrong_use_and_too_little_history_end_with_a_sentence(run, words, code, sentence):
    assert sentence in run(*words, code=code)[0]


def test_without_a_time_column_nothing_is_lived_again(run):
    spec = spec_of_past()
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"time": None})})
    assert "data.time" in run(code=2, spec=spec)[0]


def test_without_labels_nothing_can_be_compared(run):
    columns = columns_of_past(days=10)
    columns["bad"] = [None] * len(columns["at"])
    assert "bad" in run(code=1, columns=columns)[0]
