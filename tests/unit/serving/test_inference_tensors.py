"""Messages of the Open Inference Protocol: what they ask for, and what is wrong with them."""

import pickle
import random
import re
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.errors import BadRequest, SchemaMismatch, UnknownName
from hapredict.serving import inference_messages
from hapredict.serving.answers import Request
from hapredict.serving.inference_messages import DESCRIPTOR, MESSAGES, ModelInferRequest
from hapredict.serving.inference_tensors import CONTENTS, decode_request, encode_response
from hapredict.serving.tensor_bytes import to_bytes
from hapredict.serving.tensors import OUTPUTS
from tests.support.bundles import MODEL, columns_of, schema_of
from tests.support.grpc_calls import columns_in, request_of
from tests.support.serving import answer_of

PROTO = Path(inference_messages.__file__).with_name("inference.proto")


def test_the_compiled_form_says_what_the_text_says():
    text = re.sub(r"//.*", "", PROTO.read_text(encoding="utf-8"))
    written, path = set(), []
    for line in map(str.strip, text.splitlines()):
        if opened := re.fullmatch(r"(?:message|oneof|service) (\w+) \{(\})?", line):
            path += [] if opened[2] else [opened[1]]
        elif line == "}":
            path.pop()
        elif field := re.fullmatch(r"(?:repeated )?([\w<>, ]+) (\w+) = (\d+);", line):
            owner = [name for name in path if name != "parameter_choice"]
            written.add((".".join(owner), field[2], int(field[3]), "repeated" in line))
        elif call := re.fullmatch(r"rpc (\w+)\((stream )?(\w+)\) returns \(.*?(\w+)\);", line):
            written.add((call[1], call[3], call[4], bool(call[2])))
    compiled = {
        (one.name, one.input_type.name, one.output_type.name, one.client_streaming)
        for one in inference_messages.SERVICE.methods
    }
    messages = [*DESCRIPTOR.message_types_by_name.values()]
    for message in messages:
        messages += [one for one in message.nested_types if not one.GetOptions().map_entry]
        for field in message.fields:
            owner = message.full_name.removeprefix("inference.")
            is_map = field.message_type and field.message_type.GetOptions().map_entry
            compiled.add((owner, field.name, field.number, field.is_repeated and not is_map))
    assert written == compiled


@pytest.mark.parametrize("name", MESSAGES)
def test_serves_proxy_can_hand_a_message_to_a_replica(name):
    message = MESSAGES[name]()
    assert pickle.loads(pickle.dumps(message)) == message  # noqa: S301 - our own


def test_another_librarys_messages_of_the_same_names_are_no_obstacle():
    assert inference_messages.describe(DescriptorPool())
    taken = DescriptorPool()
    theirs = FileDescriptorProto(name="theirs.proto", package="inference")
    theirs.message_type.add(name="ServerLiveRequest")
    taken.AddSerializedFile(theirs.SerializeToString())
    assert not inference_messages.describe(taken)


@pytest.mark.parametrize("raw", [False, True])
@settings(max_examples=20)
@given(rows=st.integers(1, 5), seed=st.integers(0, 99))
def test_a_request_arrives_as_it_was_sent(raw, rows, seed):
    columns, schema = columns_of(rows, seed), schema_of()
    message = request_of(columns, MODEL, raw=raw, id="r-1", model_version="3")
    request = decode_request(ModelInferRequest.FromString(message.SerializeToString()), 5, 0.5)
    sent, arrived = schema.table(columns), schema.table(request.columns)
    for name in columns:
        np.testing.assert_array_equal(arrived[name], sent[name])
    assert (request.rows, request.id, request.version, request.wait_s) == (rows, "r-1", 3, 0.5)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_only_the_outputs_that_were_asked_for_come_back(task, raw):
    answer = answer_of(schema_of(("a", "b", "c") if task == "multiclass" else ("n", "y"), task))
    everything = columns_in(encode_response(answer, Request({}, 3), raw=raw))
    assert tuple(everything) == OUTPUTS
    some = encode_response(answer, Request({}, 3, "", ("score", "served_by")), raw=raw)
    assert columns_in(some) == {name: everything[name] for name in ("score", "served_by")}


def test_a_missing_text_is_the_one_that_the_request_or_the_tensor_names():
    def texts(request=None, tensor=None):
        message = tensors(("a", "BYTES", [b"", b"-", b"x"]))
        if request is not None:
            message.parameters["missing"].string_param = request
        if tensor is not None:
            message.inputs[0].parameters["missing"].string_param = tensor
        return decode_request(message, 5).columns["a"]

    assert texts() == ["", "-", "x"]
    assert texts(request="") == [None, "-", "x"]
    assert texts(request="", tensor="-") == ["", None, "x"]


def test_nan_is_a_missing_number_and_infinity_is_none():
    values = [float("nan"), float("inf"), 1.5]
    for datatype in ("FP32", "FP64"):
        arrived = decode_request(tensors(("a", datatype, values)), 5).columns["a"]
        np.testing.assert_array_equal(arrived, values)
    raw = tensors(("a", "FP16", []))
    raw.inputs[0].shape[:] = [3, 1]
    raw.raw_input_contents.append(to_bytes("FP16", values))
    np.testing.assert_array_equal(decode_request(raw, 5).columns["a"], values)


def tensors(*given):
    message = ModelInferRequest(model_name=MODEL)
    for name, datatype, values in given:
        tensor = message.inputs.add(name=name, datatype=datatype, shape=[len(values)])
        if datatype in CONTENTS:
            getattr(tensor.contents, CONTENTS[datatype]).extend(values)
    return message


def changed(change):
    message = tensors(("a", "FP64", [1.0]), ("b", "BYTES", [b"x"]))
    change(message)
    return message


FAULTS = {
    "no tensor": (lambda m: m.ClearField("inputs"), "one a column"),
    "an unknown datatype": (lambda m: setattr(m.inputs[0], "datatype", "FP8"), "a: its datatype"),
    "no contents for FP16": (lambda m: setattr(m.inputs[0], "datatype", "FP16"), "raw_input"),
    "values in another list": (
        lambda m: m.inputs[0].contents.fp32_contents.append(1.0),
        "a: is FP64, whose values belong into 'fp64_contents'; got 'fp32_contents'",
    ),
    "a shape of other size": (lambda m: m.inputs[0].shape.append(2), "a: its shape must be [rows]"),
    "no shape": (
        lambda m: m.inputs[0].ClearField("shape"),
        "a: its shape must be [rows] or [rows, 1]",
    ),
    "two of a name": (lambda m: setattr(m.inputs[1], "name", "a"), "two tensors of this name"),
    "no UTF-8": (
        lambda m: (
            m.inputs[1].contents.bytes_contents.append(b"\xff"),
            m.inputs[1].shape.__setitem__(0, 2),
        ),
        "b: has an element 1 that is not UTF-8",
    ),
    "raw and not raw": (lambda m: m.raw_input_contents.extend([b"", b""]), "has contents although"),
    "too little raw": (lambda m: m.raw_input_contents.append(b""), "which are 2; got 1"),
    "an unknown output": (lambda m: m.outputs.add(name="scores"), "no output 'scores'"),
    "a missing marker of another kind": (
        lambda m: setattr(m.parameters["missing"], "int64_param", 1),
        "'missing' must be a text",
    ),
    "columns of two lengths": (
        lambda m: (
            (m.inputs[1].contents.bytes_contents.append(b"y"), m.inputs[1].shape.insert(0, 2))
            and m.inputs[1].shape.pop()
        ),
        "values where the other columns have",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_message_is_refused_with_a_reason(fault):
    change, reason = FAULTS[fault]
    with pytest.raises(BadRequest) as caught:
        decode_request(changed(change), 5)
    assert reason in str(caught.value)


def test_all_faulty_tensors_are_told_at_once():
    message = tensors(("a", "BF16", []), ("b", "BYTES", [b"\xff"]))
    with pytest.raises(SchemaMismatch) as caught:
        decode_request(message, 5)
    assert [problem.where for problem in caught.value.problems] == ["a", "b"]


def test_a_version_is_a_number():
    with pytest.raises(UnknownName, match="'new'; known: whole numbers"):
        decode_request(changed(lambda m: setattr(m, "model_version", "new")), 5)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), raw=st.booleans())
def test_a_damaged_message_raises_bad_request_or_nothing(seed, raw):
    chance, schema = random.Random(seed), schema_of()
    body = request_of(columns_of(3), MODEL, raw=raw).SerializeToString()
    for _ in range(20):
        place = chance.randrange(len(body))
        damaged = body[:place] + chance.randbytes(chance.randrange(4)) + body[place + 1 :]
        try:
            message = ModelInferRequest.FromString(damaged)
        except DecodeError:  # gRPC's own affair
            continue
        try:
            schema.table(decode_request(message, 5).columns)
        except (BadRequest, UnknownName):
            continue
