"""A pandas frame is answered as its rows are as mappings, whatever its columns are made of."""

import datetime as dt
import subprocess
import sys

import httpx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.client import Client
from hapredict.client.pieces import Pieces, column_of
from hapredict.errors import BadRequest, ClusterUnavailable, SchemaMismatch, TimedOut
from hapredict.registry.store import open_store
from hapredict.serving.asgi import App
from hapredict.serving.replica import Replica
from tests.support.bundles import MODEL, columns_of, publish_linear, schema_of, spec_of
from tests.support.clients import Nodes, Waits
from tests.support.serving import Clock, FakeReplica

TASKS = {"binary": ("no", "yes"), "multiclass": ("a", "ß", "客服"), "regression": ()}
COLUMNS = ["prediction_id", "score", "decision", "model_version", "served_by"]
MISSING = [None, float("nan"), pd.NA, pd.NaT, np.float32("nan")]

floats = st.floats(-1e6, 1e6, width=32)
ints = st.integers(-100, 100)
words = st.sampled_from(["UA", "AA", "男", "", "unseen"])
moments = st.datetimes(dt.datetime(2001, 1, 1), dt.datetime(2030, 1, 1))  # noqa: DTZ001 - pandas has both
aware = moments.map(lambda moment: moment.replace(tzinfo=dt.UTC))


def or_missing(values):
    return values | st.sampled_from(MISSING)


NUMBERS = {
    "float64": floats | st.none(),
    "float32": floats | st.none(),
    "float16": ints | st.none(),
    "int64": ints,
    "int8": ints,
    "uint16": ints.map(abs),
    ">i4": ints,
    "Float32": floats | st.none(),
    "Float64": floats | st.none(),
    "Int64": ints | st.none(),
    "UInt8": ints.map(abs) | st.none(),
    "category": ints | st.none(),
    "double[pyarrow]": floats | st.none(),
    "int32[pyarrow]": ints | st.none(),
    "Sparse[float64]": floats | st.none(),
    "object": or_missing(floats | ints | floats.map(np.float32) | ints.map(np.int16)),
}
CATEGORIES = NUMBERS | {
    "bool": st.booleans(),
    "boolean": st.booleans() | st.none(),
    "bool[pyarrow]": st.booleans() | st.none(),
    "str": words | st.none(),
    "string[python]": words | st.none(),
    "string[pyarrow]": words | st.none(),
    "category": words | st.none(),
    "datetime64[us]": moments | st.none(),
    "object": or_missing(words | ints | st.booleans() | floats | aware | words.map(np.str_)),
}
MOMENTS = {
    "float64": floats | st.none(),
    "Int64": ints | st.none(),
    "datetime64[ns]": moments | st.none(),
    "datetime64[s]": moments | st.none(),
    "datetime64[us, Europe/Berlin]": aware | st.none(),
    "timestamp[us][pyarrow]": moments | st.none(),
    "str": moments.map(str) | st.none(),
    "object": or_missing(moments | aware | moments.map(pd.Timestamp) | moments.map(np.datetime64)),
}
IDS = {
    "int64": ints,
    "Int64": ints | st.none(),
    "str": words | st.none(),
    "category": words | st.none(),
    "object": or_missing(words | ints),
}


@st.composite
def frames(draw):
    rows = draw(st.integers(1, 5))
    schema = schema_of()
    kinds = dict.fromkeys(schema.numbers, NUMBERS) | dict.fromkeys(schema.categories, CATEGORIES)
    kinds |= {"at": MOMENTS, "order": IDS}
    index = draw(st.permutations([f"row-{row}" for row in range(rows)]))
    columns = {}
    for name, known in kinds.items():
        dtype = draw(st.sampled_from(sorted(known)))
        values = draw(st.lists(known[dtype], min_size=rows, max_size=rows))
        columns[name] = pd.Series(values, dtype=dtype, index=index)
    return pd.DataFrame(columns, index=index)


class Door:
    """A replica that answers, and the tables that it was asked."""

    def __init__(self, task, spool):
        self.store = open_store(f"memory://frames-{task}")
        extras = ("q0.1", "q0.9", "uncertainty") if task == "regression" else ()
        publish_linear(self.store, schema=schema_of(TASKS[task], task), extras=extras)
        self.replica = Replica(self.store, MODEL, "r1", spool, lambda: 1e9, spec=spec_of())
        self.replica.refresh()
        self.tables = []
        predict = self.replica.predict

        def spied(table, **options):
            self.tables.append(table)
            return predict(table, **options)

        self.replica.predict = spied
        nodes = Nodes(a=App(self.replica, clock=Clock()))
        self.client = Client("http://a/orders", MODEL, transport=nodes, sleep=Waits())


@pytest.fixture(params=TASKS, scope="module")
def door(request, tmp_path_factory):
    return Door(request.param, tmp_path_factory.mktemp("spool"))


def as_columns(rows):
    """What `predict_frame` promises, from the predictions for its rows."""
    found = [
        {"decision": row.decision, "model_version": row.model_version, "served_by": row.served_by}
        for row in rows
    ]
    for row, said in zip(found, rows, strict=True):
        if isinstance(said.score, dict):
            row |= {f"score_{name}": value for name, value in said.score.items()}
        else:
            row["score"] = said.score
        if said.uncertainty is not None:
            row["uncertainty"] = said.uncertainty
        row |= {f"q{level}": value for level, value in (said.quantiles or {}).items()}
    return pd.DataFrame(found)


@settings(max_examples=25)
@given(frame=frames(), rows_a_request=st.integers(1, 6))
def test_a_frame_is_answered_as_its_rows_are(door, frame, rows_a_request):
    expected = as_columns(door.client.predict(frame.to_dict("records")))
    (table,) = door.tables[-1:]
    del door.tables[:]
    answers = door.client.predict_frame(frame, rows_a_request=rows_a_request)
    for name, column in table.items():
        sent = np.concatenate([each[name] for each in door.tables])
        np.testing.assert_array_equal(sent, column, name)
    assert answers.index.equals(frame.index)
    assert answers["prediction_id"].is_unique
    assert set(answers) == {"prediction_id", *expected}
    pd.testing.assert_frame_equal(
        answers.drop(columns="prediction_id").reset_index(drop=True),
        expected[[name for name in answers if name != "prediction_id"]],
        check_dtype=False,
    )


def client_of(app, **options):
    return Client("http://a/orders", MODEL, transport=Nodes(a=app), sleep=Waits(), **options)


def app_of(replica=None):
    return App(replica or FakeReplica(), clock=Clock())


def frame_of(rows):
    return pd.DataFrame(columns_of(rows), index=range(10, 10 + rows))


def test_what_a_model_says_beside_its_score_has_columns_of_its_own():
    replica = FakeReplica(schema=schema_of((), "regression"), extras=("q0.1", "uncertainty"))
    answers = client_of(app_of(replica)).predict_frame(frame_of(3))
    assert list(answers) == [*COLUMNS, "uncertainty", "q0.1"]
    assert answers["q0.1"].isna().tolist() == [False, True, False]
    assert (answers["decision"] == answers["score"]).all()
    assert answers.dtypes["model_version"] == np.int64
    assert answers.index.tolist() == [10, 11, 12]


def test_a_frame_goes_as_bytes_to_the_version_that_is_asked_for():
    client = client_of(app_of())
    assert set(client.predict_frame(frame_of(2), version=2)["model_version"]) == {2}
    (request,) = client._http._transport.requests
    assert request.url.path.endswith("/v2/models/orders/versions/2/infer")
    assert "inference-header-content-length" in request.headers


def test_an_empty_frame_is_answered_without_a_request():
    client = client_of(app_of())
    for empty in (frame_of(3)[:0], pd.DataFrame()):
        answers = client.predict_frame(empty)
        assert list(answers) == COLUMNS
        assert len(answers) == 0
        assert answers.index.equals(empty.index)
    kinds = {name: str(kind) for name, kind in client.predict_frame(frame_of(0)).dtypes.items()}
    assert kinds == {**dict.fromkeys(COLUMNS, "str"), "score": "float64", "model_version": "int64"}
    assert not client._http._transport.asked


@pytest.mark.parametrize("rows_max", [1, 2, 7, 64, 1000])
def test_a_server_that_takes_fewer_rows_gets_fewer(rows_max):
    replica = FakeReplica(spec_of(serving={"rows_max": rows_max}))
    client = client_of(app_of(replica))
    frame = frame_of(50)
    answers = client.predict_frame(frame)
    assert answers.index.equals(frame.index)
    assert answers["prediction_id"].is_unique
    assert len(client._http._transport.asked) <= 6 + -(-50 // max(1, rows_max // 2))


def test_a_body_that_is_too_long_is_cut():
    replica = FakeReplica(spec_of(serving={"body_bytes_max": 2048}))
    assert len(client_of(app_of(replica)).predict_frame(frame_of(100))) == 100


def test_one_row_that_is_too_long_is_refused():
    replica = FakeReplica(spec_of(serving={"body_bytes_max": 1024}))
    frame = frame_of(3)
    frame["carrier"] = "x" * 999
    with pytest.raises(BadRequest, match="longer than 1024 bytes") as caught:
        client_of(app_of(replica)).predict_frame(frame)
    assert caught.value.rows == (0, 1)


def test_a_piece_that_fails_says_which_rows_it_was():
    frame = frame_of(10)
    frame["distance"] = frame["distance"].astype(object)
    frame.iloc[7, frame.columns.get_loc("distance")] = "far"
    with pytest.raises(SchemaMismatch) as caught:
        client_of(app_of()).predict_frame(frame, rows_a_request=3, request_id="mine")
    assert caught.value.rows == (6, 9)
    assert {problem.where for problem in caught.value.problems} >= {"rows[7].distance"}
    assert "X-Request-Id: mine-6" in caught.value.__notes__
    assert "in frame.iloc[6:9]" in caught.value.__notes__


def test_a_node_that_is_gone_is_named_with_the_rows_too():
    with pytest.raises(ClusterUnavailable, match="refused") as caught:
        client_of(httpx.ConnectError("refused")).predict_frame(frame_of(3))
    assert caught.value.rows == (0, 3)


def test_an_answer_of_other_rows_is_trouble_of_the_cluster():
    pieces = Pieces(frame_of(3), 10)
    with pytest.raises(ClusterUnavailable, match="3 rows were asked and 0 answered"):
        pieces.answered(pieces.take(), ())


def test_a_deadline_is_that_of_the_whole_frame():
    clock = Clock()

    class Slow(FakeReplica):
        def predict(self, table, *, version=None, named=()):
            clock.now_s += 0.4
            return super().predict(table, version=version, named=named)

    client = client_of(app_of(Slow()), clock=clock)
    with pytest.raises(TimedOut, match=r"deadline of 1 s; the last trouble") as caught:
        client.predict_frame(frame_of(9), rows_a_request=1, deadline_s=1.0)
    assert caught.value.rows == (2, 3)
    # the client's own deadline is that of each request
    client = client_of(app_of(Slow()), clock=clock, deadline_s=1.0)
    assert len(client.predict_frame(frame_of(9), rows_a_request=1)) == 9


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([object(), 1], "column 'carrier': a row holds a object"),
        ([pd.Period("2026"), None], "column 'carrier': a row holds a Period"),
        ([["a"], None], "column 'carrier': a row holds a list, which is no single value"),
        ([{"a": 1}, "b"], "column 'carrier': a row holds a dict"),
    ],
)
def test_values_without_a_form_are_told_with_their_column(column, message):
    frame = frame_of(2).assign(carrier=pd.Series(column, index=[10, 11], dtype=object))
    with pytest.raises(TypeError, match=message) as caught:
        client_of(app_of()).predict_frame(frame)
    assert caught.value.__notes__ == ["in frame.iloc[0:2]"]


def test_a_text_that_no_category_has_is_told_with_its_row():
    frame = frame_of(4)
    frame["carrier"] = ["a", "x" * 1001, "b", "c"]
    with pytest.raises(SchemaMismatch, match="too long") as caught:
        client_of(app_of()).predict_frame(frame, rows_a_request=2)
    assert [problem.where for problem in caught.value.problems] == ["rows[1].carrier"]


def test_infinity_is_refused_and_never_taken_for_missing():
    frame = frame_of(2).assign(distance=[1.0, np.inf])
    with pytest.raises(SchemaMismatch, match="not a finite number"):
        client_of(app_of()).predict_frame(frame)


@pytest.mark.parametrize("names", [["a", "a"], ["a", 3], ["a", ("b", "c")]])
def test_columns_must_name_fields(names):
    frame = pd.DataFrame([[1, 2]])
    frame.columns = pd.Index(names, dtype=object)
    with pytest.raises(ValueError, match="names of fields, each once"):
        client_of(app_of()).predict_frame(frame)


def test_a_request_has_at_least_a_row():
    with pytest.raises(ValueError, match="rows_a_request=0"):
        client_of(app_of()).predict_frame(frame_of(2), rows_a_request=0)


def test_numbers_go_as_arrays():
    for dtype in ("float32", "int64", "Int64", "Float64", "bool", "boolean", "int8[pyarrow]"):
        values = column_of("a", pd.Series([1, 0], dtype=dtype))
        assert isinstance(values, np.ndarray)
        assert values.dtype.kind in "fib"
    assert column_of("a", pd.Series([2**62 + 1, None], dtype="Int64")) == [2**62 + 1, None]


def test_nobody_pays_for_pandas_who_has_no_frame():
    program = (
        "import sys\n"
        "from hapredict.client import AsyncClient, Client, Feedback, Model, RetryBudget\n"
        "Client('http://a', 'm').close()\n"
        "assert not {'ray', 'onnxruntime', 'pyarrow', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
