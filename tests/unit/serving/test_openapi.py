import asyncio
import html
import json
import re

import jsonschema
import pytest

from hapredict.serving.asgi import App
from hapredict.serving.docs_page import page
from hapredict.serving.openapi import document
from tests.support.bundles import rows_as_json, schema_of
from tests.support.serving import Clock, FakeReplica, ask

TASKS = {"binary": ("no", "yes"), "multiclass": ("a", "ß"), "regression": ()}
PREDICT = "/v1/models/orders:predict"


@pytest.fixture(params=TASKS)
def schema(request):
    return schema_of(TASKS[request.param], request.param)


def _document(schema, extras=(), **options):
    about = FakeReplica(schema=schema, extras=extras).about()
    return document("orders", about, **{"time_required": False, "rows_max": 10, **options})


def _checker(described, name):
    whole = {**described, "$ref": f"#/components/schemas/{name}"}
    return jsonschema.Draft202012Validator(whole)


def _body_of(described, path):
    operation = described["paths"][path]["post"]
    refs = [
        operation["requestBody"]["content"]["application/json"]["schema"]["$ref"],
        operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"],
    ]
    return [ref.rsplit("/", 1)[-1] for ref in refs]


def test_every_shape_is_a_json_schema_and_every_reference_leads_somewhere(schema):
    described = _document(schema)
    shapes = described["components"]["schemas"]
    for shape in shapes.values():
        jsonschema.Draft202012Validator.check_schema(shape)
    text = json.dumps(described)
    refs = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert refs <= set(shapes)
    assert described["openapi"] == "3.1.0"
    ids = re.findall(r'"operationId": "(\w+)"', text)
    assert len(ids) == len(set(ids))


def test_every_example_fits_its_shape(schema):
    described = _document(schema)
    for name, shape in described["components"]["schemas"].items():
        for example in shape.get("examples", ()):
            _checker(described, name).validate(example)


def test_every_example_of_a_request_is_answered(schema):
    app = App(FakeReplica(schema=schema), clock=Clock())
    described = asyncio.run(ask(app, "GET", "/openapi.json")).json
    asked = 0
    for path, item in described["paths"].items():
        if "post" in item:
            request, response = _body_of(described, path)
            for body in described["components"]["schemas"][request]["examples"]:
                got = asyncio.run(ask(app, "POST", path.replace("{version}", "2"), body))
                assert got.status == 200, (path, body, got.body)
                _checker(described, response).validate(got.json)
                asked += 1
    assert asked == 14


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        (("no", "yes"), ["no", "yes"]),
        (("0", "1"), ["0", "1", 0, 1, True, False]),
        (("false", "true"), ["false", "true", False, True, 0, 1]),
        (("1.5", "x"), ["1.5", "x", 1.5]),
    ],
)
def test_labels_are_told_in_each_form_that_is_taken(classes, labels):
    schema = schema_of(classes)
    feedback = _document(schema)["components"]["schemas"]["Feedback"]
    told = feedback["oneOf"][1]["properties"]["label"]["enum"]
    assert [(type(label), label) for label in told] == [(type(label), label) for label in labels]
    for label in told:
        schema.label_of(label)


def test_fields_say_what_the_model_has_learned_from(schema):
    fields = _document(schema)["components"]["schemas"]["Row"]["properties"]
    assert re.fullmatch(
        r"The model has learned from \d+ to \d+\.", fields["distance"]["description"]
    )
    assert "UA" in fields["carrier"]["description"]
    assert fields["carrier"]["examples"][0] in ("UA", "AA", "DL", "B6")


def test_fields_have_their_real_names_and_may_be_null(schema):
    described = _document(schema)
    row = described["components"]["schemas"]["Row"]
    assert list(row["properties"]) == ["收入", "distance", "性别", "carrier", "at", "order"]
    assert row["required"] == ["收入", "distance", "性别", "carrier"]
    for fields in rows_as_json(5):
        _checker(described, "Row").validate(fields)
        _checker(described, "Row").validate({**fields, "收入": None, "carrier": None})
    with pytest.raises(jsonschema.ValidationError):
        _checker(described, "Row").validate({**rows_as_json(1)[0], "distanse": 1})


def test_what_the_model_says_beside_its_scores_is_described(schema):
    bare = _document(schema)["components"]["schemas"]["Prediction"]
    assert not {"uncertainty", "quantiles"} & set(bare["properties"])
    told = _document(schema, extras=("q0.1", "q0.9", "uncertainty"))
    fields = told["components"]["schemas"]["Prediction"]["properties"]
    assert list(fields["quantiles"]["properties"]) == ["0.1", "0.9"]
    assert fields["uncertainty"]["minimum"] == 0


def test_time_is_required_where_the_clock_runs_on_it(schema):
    row = _document(schema, time_required=True)["components"]["schemas"]["Row"]
    assert row["required"][-1] == "at"


@pytest.mark.parametrize("extras", [(), ("uncertainty",), ("q0.1", "q0.9", "uncertainty")])
def test_what_the_app_takes_and_answers_is_what_the_document_says(schema, extras):
    app = App(FakeReplica(schema=schema, extras=extras), clock=Clock())

    async def exchange(path, body):
        described = (await ask(app, "GET", "/openapi.json")).json
        got = await ask(app, "POST", path, body)
        request, response = _body_of(described, path)
        _checker(described, request).validate(body)
        _checker(described, response if got.status == 200 else "Error").validate(got.json)
        return got.status

    tensors = [
        {"name": name, "datatype": "FP64" if place < 2 else "BYTES", "shape": [1], "data": [None]}
        for place, name in enumerate(("收入", "distance", "性别", "carrier"))
    ]
    label = {"prediction_id": "p", "label": (*schema.classes, 1)[0]}
    for path, body, status in (
        (PREDICT, {"instances": rows_as_json(3)}, 200),
        (
            PREDICT,
            {"inputs": {name: [None] for name in ("收入", "distance", "性别", "carrier")}},
            200,
        ),
        (PREDICT, {"instances": [{**rows_as_json(1)[0], "carrier": "x" * 1000}]}, 200),
        ("/v2/models/orders/infer", {"inputs": tensors}, 200),
        ("/v1/models/orders:feedback", label, 200),
        ("/v1/models/orders:feedback", {"labels": [label]}, 200),
    ):
        assert asyncio.run(exchange(path, body)) == status


def test_errors_have_the_shape_that_the_document_says(schema):
    app = App(FakeReplica(schema=schema), clock=Clock())
    check = _checker(_document(schema), "Error")
    for body in (b"", b"{}", {"instances": [{}]}, {"instances": [1]}):
        check.validate(asyncio.run(ask(app, "POST", PREDICT, body)).json)
    check.validate(asyncio.run(ask(app, "GET", "/nowhere")).json)


def test_every_path_of_the_document_is_served(schema):
    app = App(FakeReplica(schema=schema), clock=Clock())
    for path, item in _document(schema)["paths"].items():
        for verb in set(item) & {"get", "post"}:
            served = path.replace("{version}", "1")
            got = asyncio.run(ask(app, verb.upper(), served, b"{}"))
            assert got.status in (200, 400), (verb, path)
            if verb == "get" and "application/json" in item[verb]["responses"]["200"]["content"]:
                content = item[verb]["responses"]["200"]["content"]["application/json"]
                name = content["schema"]["$ref"].rsplit("/", 1)[-1]
                _checker(_document(schema), name).validate(got.json)


def test_the_page_shows_every_operation_and_loads_nothing(schema):
    app = App(FakeReplica(schema=schema), clock=Clock())
    got = asyncio.run(ask(app, "GET", "/docs"))
    text = html.unescape(got.body.decode())
    assert got.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in got.headers["content-security-policy"]
    for path, item in _document(schema)["paths"].items():
        assert f"<code>{path}</code>" in text
        for operation in item.values():
            if isinstance(operation, dict):
                assert operation["summary"] in text
    assert "收入" in text
    assert not re.search(r"https?://|<link|src=", text)


def test_names_in_the_page_cannot_become_markup():
    schema = schema_of(("<script>alert(1)</script>", "x"))
    text = page(_document(schema, root='/"><script>'))
    assert "<script>alert" not in text
    assert '"><script>"' not in text


def test_a_mounted_app_describes_itself_where_it_is_mounted(schema):
    assert _document(schema, root="/orders")["servers"] == [{"url": "/orders"}]
