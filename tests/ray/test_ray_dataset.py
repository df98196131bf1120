"""Files become blocks of columns, whatever wrote them; what cannot be read is named."""

import datetime as dt
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from hapredict.data.ray_dataset import (
    add_up,
    chance_of_rows,
    columns_of_frame,
    find_files,
    of_blocks,
    open_dataset,
    with_rows,
)
from hapredict.data.rows import Survey
from hapredict.data.schema import infer_schema
from hapredict.errors import DataError, Problem
from hapredict.sections import DataSpec


@pytest.fixture
def home(tmp_path):
    home = tmp_path / "主页 [1] 100% #x"
    home.mkdir()
    return home


def spec(*sources, **changed):
    return DataSpec(**{"sources": sources, "target": "late", **changed})


def write(path: Path, text="x,late\n1,0\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def names(home, *sources):
    return [os.path.relpath(file, home) for file in find_files(spec(*sources), home)]


def problems(call):
    with pytest.raises(DataError) as refused:
        call()
    assert refused.value.exit_code == 1
    return {problem.where: problem.what for problem in refused.value.problems}


def rows_of(dataset):
    """All rows as one mapping a row, in any order."""
    blocks = of_blocks(dataset, lambda columns: {n: v.tolist() for n, v in columns.items()})
    rows = [
        {name: None if pd.isna(column[row]) else column[row] for name, column in block.items()}
        for block in blocks
        for row in range(len(next(iter(block.values()))))
    ]
    return sorted(rows, key=repr)


def rows_in(home, *sources, **changed):
    the_spec = spec(*sources, **changed)
    return rows_of(open_dataset(find_files(the_spec, home), the_spec))


class TestFindFiles:
    def test_files_directories_and_globs_start_at_home(self, home):
        for name in ("a.csv", "年/b.parquet", "年/月/c.csv", "年/notes.txt"):
            write(home / name)
        assert names(home, "a.csv") == ["a.csv"]
        assert names(home, "年") == ["年/b.parquet", "年/月/c.csv"]
        assert names(home, "*.csv", "**/c.csv") == ["a.csv", "年/月/c.csv"]
        assert names(home, "年/[ab].*") == ["年/b.parquet"]
        assert names(home / "年", "../*.csv") == ["../a.csv"]
        assert names(Path("elsewhere").absolute(), str(home / "a.csv")) == names(
            Path("elsewhere").absolute(), str(home) + "/a.csv"
        )

    def test_a_file_that_two_sources_name_is_read_once(self, home):
        write(home / "a.csv")
        assert names(home, "a.csv", "*.csv", ".") == ["a.csv"]

    def test_what_programs_leave_beside_data_is_no_data(self, home):
        for name in ("d/a.csv", "d/._a.csv", "d/_temporary/b.csv", "d/.ipynb_checkpoints/a.csv"):
            write(home / name)
        (home / "d" / "out.csv").mkdir()
        write(home / "d" / "out.csv" / "part-0.csv")
        assert names(home, "d") == ["d/a.csv", "d/out.csv/part-0.csv"]
        assert names(home, "d/*.csv") == ["d/a.csv"]
        assert names(home, "d/.*.csv") == ["d/._a.csv"]
        assert names(home, "d/_temporary/b.csv") == ["d/_temporary/b.csv"]

    def test_urls_are_passed_on(self, home):
        assert find_files(spec("s3://bucket/*.parquet"), home) == ("s3://bucket/*.parquet",)

    def test_every_source_that_cannot_be_read_is_named(self, home):
        write(home / "a.txt")
        empty = write(home / "empty.csv", "")
        (home / "nothing").mkdir()
        found = problems(
            lambda: find_files(spec("gone.csv", "no*.csv", "nothing", "a.txt", "empty.csv"), home)
        )
        assert found[str(home / "a.txt")] == "is neither .parquet nor .csv"
        assert "0 bytes" in found[str(empty)]
        assert "'nothing' matches no file" in found["data.sources"]

    def test_a_pattern_that_is_none_is_refused(self, home):
        assert "is no pattern" in problems(lambda: find_files(spec("**.csv"), home))["data.sources"]


class TestColumns:
    def test_a_moment_keeps_its_place_in_utc(self):
        moments = pd.Series(pd.to_datetime(["2026-01-01T08:00"])).dt.tz_localize("Asia/Shanghai")
        (column,) = columns_of_frame(pd.DataFrame({"at": moments})).values()
        assert column.dtype.kind == "M"
        assert column[0] == np.datetime64("2026-01-01T00:00")

    def test_categories_are_their_values_and_durations_are_seconds(self):
        frame = pd.DataFrame(
            {"性别": pd.Categorical(["女", None]), "took": pd.to_timedelta([90, 1], unit="s")}
        )
        columns = columns_of_frame(frame)
        assert columns["性别"].dtype == object
        assert columns["性别"][0] == "女"
        assert columns["took"].tolist() == [90.0, 1.0]

    def test_the_index_of_pandas_is_no_column(self):
        assert list(columns_of_frame(pd.DataFrame({"__index_level_0__": [7], "x": [1]}))) == ["x"]


VALUES = st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "a", "7", "性别"])


class TestChanceOfRows:
    @given(st.lists(st.tuples(VALUES, st.floats(allow_nan=True)), min_size=1), st.randoms())
    def test_a_row_has_the_same_chance_wherever_it_stands(self, rows, random):
        def chances(rows):
            mixed = np.array([row[0] for row in rows], dtype=object)
            return chance_of_rows({"a": mixed, "b": np.array([row[1] for row in rows])})

        found = chances(rows)
        assert ((found >= 0) & (found < 1)).all()
        order = random.sample(range(len(rows)), len(rows))
        assert chances([rows[place] for place in order]).tolist() == found[order].tolist()

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (np.array([3, 0]), np.array([3.0, -0.0])),
            (np.array([3, 1]), np.array(["3", "1"], object)),
            (np.array([3.0, np.nan]), np.array([3, None], object)),
            (np.array(["a", None], object), np.array(["a", np.nan], object)),
            (np.array([True, False]), np.array([1, 0], np.int8)),
            (
                np.array(["2026-01-01"] * 2, "datetime64[ns]"),
                np.array(["2026-01-01"] * 2, "datetime64[s]"),
            ),
        ],
    )
    def test_equal_values_of_two_files_have_equal_chances(self, one, other):
        assert chance_of_rows({"x": one}).tolist() == chance_of_rows({"x": other}).tolist()

    def test_chances_spread_evenly(self):
        rows = np.arange(20_000)
        chances = chance_of_rows({"x": rows, "y": (rows % 3).astype(str).astype(object)})
        assert len(np.unique(chances)) == len(rows)
        assert np.abs(np.histogram(chances, 10, (0, 1))[0] - 2000).max() < 200

    def test_values_may_change_places_and_may_be_lists(self):
        columns = {"x": np.array([1, 2]), "y": np.array([2, 1])}
        assert len(set(chance_of_rows(columns).tolist())) == 2
        lists = np.empty(2, object)
        lists[:] = [np.array([1, 2]), None]
        assert len(set(chance_of_rows({"x": lists}).tolist())) == 2

    def test_no_row_has_no_chance(self):
        assert chance_of_rows({"x": np.zeros(0), "y": np.zeros(0, object)}).tolist() == []


@pytest.mark.usefixtures("cluster")
class TestReading:
    def test_csv_and_parquet_of_any_order_and_kind_are_one_data_set(self, home):
        write(home / "d" / "a.csv", "性别,收入,late\n女,1,0\n男,,1\n")
        write(home / "d" / "b.csv", "late,收入,性别\n1,2.5,女\n")
        write(home / "d" / "header.csv", "性别,收入,late\n")
        one = pd.DataFrame({"性别": ["男"], "收入": [4], "late": [0]}, index=[5])
        one.to_parquet(home / "d" / "c.parquet")
        one.astype({"收入": str})[["late", "收入", "性别"]].to_parquet(home / "d" / "d.parquet")
        one[:0].to_parquet(home / "d" / "e.parquet")
        found = rows_in(home, "d", columns={"性别": "category"})
        read = [(row["性别"], float(row["收入"] or 0), row["late"]) for row in found]
        assert sorted(read) == [
            ("女", 1, 0),
            ("女", 2.5, 1),
            ("男", 0, 1),
            ("男", 4, 0),
            ("男", 4, 0),
        ]
        assert all(set(row) == {"性别", "收入", "late"} for row in found)

    def test_a_code_with_zeros_in_front_keeps_them_as_category_and_as_id(self, home):
        write(home / "a.csv", "postcode,order,late\n00123,007,0\n")
        (row,) = rows_in(home, "a.csv", columns={"postcode": "category"}, id="order")
        assert (row["postcode"], row["order"]) == ("00123", "007")

    def test_a_column_may_turn_out_to_be_fractions_late_in_a_large_file(self, home):
        text = "x,late\n" + "1234567,0\n" * 150_000 + "0.5,1\n"
        write(home / "a.csv", text)
        the_spec = spec("a.csv")
        dataset = open_dataset(find_files(the_spec, home), the_spec)
        sums = of_blocks(dataset, lambda columns: (len(columns["x"]), columns["x"].min()))
        assert sum(rows for rows, _ in sums) == 150_001
        assert min(least for _, least in sums) == 0.5

    def test_times_with_zones_are_the_same_moment_from_every_file(self, home):
        moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        for zone in ("UTC", "Asia/Shanghai"):
            at = pd.Series([pd.Timestamp(moment).tz_convert(zone)])
            file = home / "d" / f"{zone.replace('/', '-')}.parquet"
            file.parent.mkdir(exist_ok=True)
            pd.DataFrame({"at": at, "late": [0]}).to_parquet(file)
        write(home / "d" / "a.csv", "at,late\n2026-01-01T08:00:00+08:00,1\n")
        the_spec = spec("d", time="at", columns={"x": "number"})
        dataset = open_dataset(find_files(the_spec, home), the_spec)
        sample = {"x": [1.0, 2.0], "late": [0, 1], "at": ["2026-01-01"] * 2}
        schema = infer_schema(the_spec, sample)
        seconds = of_blocks(
            dataset,
            lambda columns: schema.frame({**columns, "x": columns["late"]})[0]["at"].tolist(),
        )
        assert [second for block in seconds for second in block] == [moment.timestamp()] * 3

    @pytest.mark.parametrize("ending", ["csv", "parquet"])
    def test_a_column_that_one_file_lacks_is_named(self, home, ending):
        frame = pd.DataFrame({"性别": ["女", "男"], "收入": [1, 2], "late": [0, 1]})
        for name, columns in (("a", frame), ("b", frame[["收入", "late"]])):
            path = home / f"{name}.{ending}"
            columns.to_csv(path, index=False) if ending == "csv" else columns.to_parquet(path)
        the_spec = spec(f"*.{ending}")
        dataset = open_dataset(find_files(the_spec, home), the_spec)
        survey = add_up(dataset, lambda columns: Survey.of(columns, "late"))
        assert (survey.rows, survey.classes) == (4, {"0": 2, "1": 2})
        schema = infer_schema(the_spec, survey.sample, survey.classes)
        found = problems(lambda: of_blocks(dataset, lambda columns: schema.frame(columns)[1].sum()))
        assert found == {"性别": "no such column"}

    @pytest.mark.parametrize(
        ("name", "text", "told"),
        [
            ("坏.csv", "x,late\n1,0\n1,2,3\n", "Expected 2 columns, got 3"),
            ("坏.csv", "x,x,late\n1,2,0\n", "more than one column named 'x'"),
            ("坏.parquet", "no Parquet at all", "is not Parquet"),
        ],
    )
    def test_a_file_that_cannot_be_read_is_named_with_its_fault(self, home, name, text, told):
        write(home / "a.csv")
        path = write(home / name, text)
        found = problems(lambda: rows_in(home, "."))
        assert list(found) == [str(path)]
        assert told in found[str(path)]

    def test_data_without_rows_are_refused(self, home):
        write(home / "a.csv", "x,late\n")
        parquet.write_table(pa.table({"x": pa.array([], pa.int64())}), home / "b.parquet")
        dataset = open_dataset(find_files(spec("."), home), spec("."))
        found = problems(lambda: add_up(dataset, lambda columns: Survey.of(columns, "late")))
        assert found == {"": "the data have no rows"}

    def test_rows_of_the_journal_join_those_of_files(self, home):
        write(home / "a.csv", "性别,收入,late\n女,1,0\n")
        the_spec = spec("a.csv")
        dataset = open_dataset(find_files(the_spec, home), the_spec)
        live = {
            "性别": np.array(["男", None], object),
            "收入": np.array([np.nan, 2.0]),
            "late": np.array(["1", "0"], object),
        }
        survey = add_up(with_rows(dataset, live), lambda columns: Survey.of(columns, "late"))
        assert (survey.rows, survey.classes) == (3, {"0": 2, "1": 1})
        assert sorted(survey.sample["性别"]) == ["女", "男"]
        assert sorted(survey.sample["收入"]) == [1, 2.0]

    def test_an_error_of_ours_comes_back_as_itself(self, home):
        write(home / "a.csv")
        dataset = open_dataset(find_files(spec("a.csv"), home), spec("a.csv"))

        def refuse(columns):
            raise DataError((Problem("x", "is odd"),))

        assert problems(lambda: of_blocks(dataset, refuse)) == {"x": "is odd"}

    def test_results_come_in_the_same_order_each_time(self, home):
        for place in range(4):
            write(home / f"{place}.csv", f"x,late\n{place},0\n{place}0,1\n")
        the_spec = spec("*.csv")
        files = find_files(the_spec, home)
        orders = [
            of_blocks(open_dataset(files, the_spec), lambda columns: columns["x"].tolist())
            for _ in range(2)
        ]
        assert orders[0] == orders[1]
