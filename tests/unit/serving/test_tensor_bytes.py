"""Elements and their bytes: they come back, and what is no such bytes is told."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays, from_dtype

from hapredict.serving.tensor_bytes import DATATYPES, DTYPES, from_bytes, to_bytes


@given(st.data(), st.sampled_from(sorted(DTYPES)))
def test_numbers_come_back_bit_for_bit(data, datatype):
    dtype = DTYPES[datatype]
    values = data.draw(arrays(dtype, st.integers(0, 5), elements=from_dtype(dtype)))
    raw = to_bytes(datatype, values)
    assert len(raw) == dtype.itemsize * len(values)
    assert from_bytes(datatype, raw, len(values)).tobytes() == values.tobytes()


@given(st.lists(st.text(max_size=5), max_size=5))
def test_texts_come_back(texts):
    assert from_bytes("BYTES", to_bytes("BYTES", texts), len(texts)) == texts


def test_the_bytes_are_those_of_the_protocol():
    assert to_bytes("BYTES", ["ab", "", "ß"]) == b"\2\0\0\0ab\0\0\0\0\2\0\0\0\xc3\x9f"
    assert to_bytes("INT16", [1, -2]) == b"\1\0\xfe\xff"
    assert to_bytes("BOOL", [True, False]) == b"\1\0"
    assert to_bytes("FP32", [1.5]) == b"\0\0\xc0\x3f"
    assert to_bytes("FP16", [1.5]) == b"\0\x3e"
    assert to_bytes("BF16", [1.5]) == b"\xc0\x3f"


@given(st.lists(st.floats(width=32), min_size=1, max_size=5))
def test_bf16_keeps_eight_bits_of_precision(values):
    back = from_bytes("BF16", to_bytes("BF16", values), len(values))
    sent = np.array(values, np.float32)
    same = ~np.isfinite(sent) | ~np.isfinite(back)  # the largest round to infinity
    np.testing.assert_array_equal(np.isnan(back), np.isnan(sent))
    np.testing.assert_allclose(back[~same], sent[~same], rtol=2**-8, atol=1e-40)
    assert to_bytes("BF16", back) == to_bytes("BF16", values)


def test_a_missing_number_is_the_nan_of_floats_and_nothing_else():
    assert np.isnan(from_bytes("FP64", to_bytes("FP64", [None, 1.0]), 2)).tolist() == [True, False]
    with pytest.raises((TypeError, ValueError)):
        to_bytes("INT64", [None])


def test_an_array_is_not_copied():
    raw = np.arange(4.0).tobytes()
    assert np.shares_memory(from_bytes("FP64", raw, 4), np.frombuffer(raw))


@pytest.mark.parametrize(
    ("datatype", "raw", "count", "sentence"),
    [
        ("FP64", bytes(9), 1, "holds 9 bytes; 1 values of FP64 are 8"),
        ("BF16", bytes(3), 1, "holds 3 bytes; 1 values of BF16 are 2"),
        ("INT8", b"", 10**30, "holds 0 bytes"),
        ("BOOL", b"\1\2", 2, "holds the byte 2"),
        ("BYTES", b"\1\0\0", 1, "ends within the length of element 0"),
        ("BYTES", b"\2\0\0\0a", 1, "ends within element 0, which is to have 2 bytes"),
        ("BYTES", b"\xff\xff\xff\xffa", 1, "which is to have 4294967295 bytes"),
        ("BYTES", b"\1\0\0\0\xff", 1, "element 0 that is not UTF-8"),
        ("BYTES", b"\0\0\0\0", 2, "holds 1 elements where its shape says 2"),
    ],
)
def test_bytes_that_are_no_such_tensor_are_refused(datatype, raw, count, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_bytes(datatype, raw, count)


@given(st.sampled_from(DATATYPES), st.binary(max_size=40), st.integers(0, 12))
def test_any_bytes_make_a_tensor_or_a_value_error(datatype, raw, count):
    try:
        found = from_bytes(datatype, raw, count)
    except ValueError:
        return
    assert len(found) == count
