"""Sentences and details of single protocols; what all of them promise is in tests/contract."""

import json

import pytest

from hapredict.errors import BadRequest, SchemaMismatch
from hapredict.serving.answers import Request, predictions
from hapredict.serving.decisions import Rule
from hapredict.serving.feedback import Feedback, decode_feedback, encode_feedback
from hapredict.serving.protocols import V1Rows
from hapredict.serving.tensors import OUTPUTS
from hapredict.serving.v2 import V2
from tests.support.bundles import schema_of
from tests.support.serving import answer_of


def _v1(value) -> Request:
    return V1Rows.decode_request(json.dumps(value).encode(), 100)


def _tensor(**over):
    return {"name": "a", "datatype": "FP64", "shape": [2], "data": [1, 2.5], **over}


def _v2(*tensors, **more) -> Request:
    return V2.decode_request(json.dumps({"inputs": list(tensors), **more}).encode(), 100)


def test_rows_and_columns_in_one_body_are_refused():
    with pytest.raises(BadRequest, match="not both"):
        _v1({"instances": [{"a": 1}], "inputs": {"a": [1]}})


def test_an_unknown_key_is_told_and_a_signature_is_borne():
    with pytest.raises(SchemaMismatch, match="instance: no such field here; known: instances"):
        _v1({"instance": [{"a": 1}], "inputs": {"a": [1]}})
    assert _v1({"signature_name": "serving_default", "instances": [{"a": 1}]}).rows == 1


def test_rows_that_are_no_objects_are_named():
    with pytest.raises(SchemaMismatch) as caught:
        _v1({"instances": [{"a": 1}, [1], None]})
    assert [problem.where for problem in caught.value.problems] == ["rows[1]", "rows[2]"]
    assert caught.value.status == 400


def test_a_field_that_one_row_lacks_is_named_with_its_row():
    schema, rows = schema_of(), [schema_of().example(), schema_of().example()]
    del rows[1]["distance"]
    with pytest.raises(SchemaMismatch, match=r"rows\[1\].distance: is missing"):
        schema.table(_v1({"instances": rows}).columns)


def test_columns_of_unequal_length_are_named():
    with pytest.raises(SchemaMismatch, match="b: has 1 values where the other columns have 2"):
        _v1({"inputs": {"a": [1, 2], "b": [1], "c": [1, 2]}})


def test_the_decision_of_a_binary_model_follows_the_threshold():
    schema = schema_of(("no", "yes"))
    scores = [row["score"] for row in predictions(answer_of(schema, 5))]
    at = sorted(scores)[2]
    rows = predictions(answer_of(schema, 5, rule=Rule(at)))
    assert [row["decision"] == "yes" for row in rows] == [score >= at for score in scores]


def test_the_decision_of_several_classes_is_the_likeliest_one():
    schema = schema_of(("a", "b", "c"), "multiclass")
    for row in predictions(answer_of(schema, 5)):
        assert row["decision"] == max(row["score"], key=row["score"].get)
        assert sum(row["score"].values()) == pytest.approx(1)


def test_the_decision_of_a_regression_is_its_value():
    for row in predictions(answer_of(schema_of((), "regression"), 3)):
        assert row["decision"] == row["score"]


def test_infer_answers_extras_where_they_are_and_null_where_not():
    names = ("q0.1", "q0.9", "uncertainty")
    answer = answer_of(schema_of((), "regression"), 3, extra_names=names)
    told = json.loads(V2.encode_response(answer, Request({}, 3)).body)["outputs"]
    tensors = {tensor["name"]: tensor for tensor in told}
    assert list(tensors)[-2:] == ["uncertainty", "quantiles"]
    assert tensors["quantiles"]["shape"] == [3, 2]
    assert tensors["quantiles"]["parameters"] == {"quantiles": ["0.1", "0.9"]}
    assert [value is None for value in tensors["uncertainty"]["data"]] == [False, True, False]
    only = Request({}, 3, outputs=("quantiles",))
    (one,) = json.loads(V2.encode_response(answer, only).body)["outputs"]
    assert one == tensors["quantiles"]


def test_infer_takes_flat_and_nested_data_and_missing_values():
    for shape, data in (([2], [1, None]), ([2, 1], [1, None]), ([2, 1], [[1], [None]])):
        assert list(_v2(_tensor(shape=shape, data=data)).columns["a"]) == [1, None]


@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        (_tensor(datatype="FP99"), "a: its datatype must be one of BOOL, BYTES"),
        (_tensor(shape=[3]), r"a: its shape must be \[2\] or \[2, 1\], as it has 2 values"),
        (_tensor(shape=[1, 2]), "a: its shape must be"),
        (_tensor(datatype="INT64"), "a: is INT64, which cannot be the number 2.5"),
        (_tensor(datatype="BYTES"), "a: is BYTES, which cannot be the number 1"),
        (_tensor(datatype="BOOL", data=[True, "x"]), "a: is BOOL, which cannot be the text 'x'"),
        (_tensor(datatype="INT8", data=[True, 1]), "a: is INT8, which cannot be true"),
        (_tensor(data=7), "a: its shape and its data must be lists"),
        (
            _tensor(parameters={"binary_data_size": 8}),
            "a: has 'binary_data_size', and there is no Inference",
        ),
        ({"datatype": "FP64"}, r"inputs\[0\]: must be a tensor"),
    ],
)
def test_a_faulty_tensor_is_told_by_its_name(tensor, sentence):
    with pytest.raises(SchemaMismatch, match=sentence):
        _v2(tensor)


def test_two_tensors_of_one_name_are_refused():
    with pytest.raises(SchemaMismatch, match="two tensors of this name"):
        _v2(_tensor(), _tensor())


def test_infer_echoes_the_id_and_answers_only_the_outputs_asked_for():
    request = _v2(_tensor(), id="42", outputs=[{"name": "decision"}, {"name": "score"}])
    reply = json.loads(V2.encode_response(answer_of(schema_of(), 2), request).body)
    assert reply["id"] == "42"
    assert reply["model_version"] == "1"
    assert {tensor["name"] for tensor in reply["outputs"]} == {"decision", "score"}
    with pytest.raises(BadRequest, match="score, decision, prediction_id"):
        _v2(_tensor(), outputs=[{"name": "logits"}])


def test_infer_answers_tensors_with_shapes_and_class_names():
    schema = schema_of(("a", "b", "c"), "multiclass")
    reply = json.loads(V2.encode_response(answer_of(schema, 2), Request({}, 2)).body)
    assert [tensor["name"] for tensor in reply["outputs"]] == list(OUTPUTS)
    score = reply["outputs"][0]
    assert score["shape"] == [2, 3]
    assert len(score["data"]) == 6
    assert score["parameters"] == {"classes": ["a", "b", "c"]}


def test_labels_arrive_as_they_were_sent():
    labels = (Feedback("p-1", "yes"), Feedback("p-2", 3.5, 1.7e9), Feedback("三", True))
    assert decode_feedback(encode_feedback(labels), 10) == labels


def test_one_label_may_stand_alone_and_its_time_may_be_a_text():
    body = b'{"prediction_id": "p", "label": 0, "at": "2026-03-01T00:00:00Z"}'
    assert decode_feedback(body, 10) == (Feedback("p", 0, 1772323200.0),)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"labels": [{"label": 1}]}, ["labels[0].prediction_id"]),
        ({"labels": [{"prediction_id": "p", "label": 1}, 7]}, ["labels[1]"]),
        ({"labels": [{"prediction_id": "", "label": None}]}, None),
        ({"prediction_id": "p", "label": 1, "at": "soon"}, ["at"]),
        ({"prediction_id": "p", "label": 1, "wehn": 3}, ["wehn"]),
        ({"prediction_id": "p" * 201, "label": 1}, ["prediction_id"]),
        ({"labels": [], "label": 1}, ["label"]),
        ({}, ["prediction_id", "label"]),
    ],
)
def test_a_faulty_label_is_told_with_its_place(body, where):
    with pytest.raises(SchemaMismatch) as caught:
        decode_feedback(json.dumps(body).encode(), 10)
    found = [problem.where for problem in caught.value.problems]
    assert found == (where or ["labels[0].prediction_id", "labels[0].label"])
    assert caught.value.status == 400


@pytest.mark.parametrize(("labels", "status"), [([], 400), ([{}] * 11, 413), ("x", 400)])
def test_no_labels_too_many_labels_and_no_list_are_refused(labels, status):
    with pytest.raises(BadRequest) as caught:
        decode_feedback(json.dumps({"labels": labels}).encode(), 10)
    assert caught.value.status == status
