"""Bytes of tensors: what is written is read, and what is damaged is refused with a reason."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.serving.raw_tensors import DATATYPES, NUMBERS, raw_of, values_of


def kinds(datatype):
    if datatype == "BYTES":
        return st.text()
    if datatype == "BOOL":
        return st.booleans()
    bits = int("".join(filter(str.isdigit, datatype)))
    if datatype.startswith("FP"):
        return st.floats(width=bits, allow_nan=False)
    low = 0 if datatype.startswith("U") else -(2 ** (bits - 1))
    return st.integers(low, low + 2**bits - 1)


@pytest.mark.parametrize("datatype", DATATYPES)
@settings(max_examples=20)
@given(data=st.data())
def test_values_arrive_as_they_were_sent(datatype, data):
    sent = data.draw(st.lists(kinds(datatype), max_size=6))
    read = values_of(datatype, raw_of(datatype, sent))
    assert [v.decode() for v in read] == sent if datatype == "BYTES" else read == sent


def test_the_layout_is_that_of_the_protocol():
    assert raw_of("BYTES", ["a", "ß"]) == b"\x01\0\0\0a\x02\0\0\0\xc3\x9f"
    assert raw_of("INT16", [1, -2]) == b"\x01\0\xfe\xff"
    assert raw_of("FP64", [1.5]) == struct.pack("<d", 1.5)
    assert raw_of("BOOL", [True, False]) == b"\x01\0"


@pytest.mark.parametrize("datatype", [name for name in NUMBERS if not name.endswith(("8", "BOOL"))])
def test_half_a_number_is_told(datatype):
    with pytest.raises(ValueError, match=f"bytes, which is no multiple of the . of {datatype}"):
        values_of(datatype, b"\0" * 17)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\x01\0\0", "inside the length of text 0"),
        (b"\x01\0\0\0a\x05\0\0\0abc", "inside text 1, which has 5 bytes"),
        (b"\xff\xff\xff\xffa", "inside text 0, which has 4294967295 bytes"),
    ],
)
def test_a_text_that_is_cut_off_is_told(raw, reason):
    with pytest.raises(ValueError, match=reason):
        values_of("BYTES", raw)


@given(raw=st.binary(max_size=40), datatype=st.sampled_from(DATATYPES))
def test_any_bytes_are_values_or_a_value_error(raw, datatype):
    try:
        values_of(datatype, raw)
    except ValueError as error:
        assert 0 < len(str(error)) < 200  # noqa: PT017 - either way is right
