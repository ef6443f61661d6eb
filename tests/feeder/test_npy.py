"""Headers of npy files: whatever they say, the sample is skipped or the trainer makes the array that numpy makes."""

from __future__ import annotations

import io
import mmap
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from datago_gpu.decoders.placement import HostPlacer
from datago_gpu.feeder.npy import BadArray, as_array, read_form
from datago_gpu.feeder.wire import ArrayForm, PartColumn
from datago_gpu.loader.latents import Latents

PLAIN = st.one_of(
    st.sampled_from(["b1", "i1", "u1", "<i2", ">i2", "<u4", ">u8", "<f2", ">f4", "<f8", "<f16", "<c8", ">c16", "<c32"]),
    st.sampled_from(["S3", "<U2", ">U1", "V5", "<M8[ns]", ">m8[25s]", "<M8[D]", "m8"]),
)


def npy(descr: str, shape: str, data: bytes = b"", version: int = 1, order: str = "False") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode("latin-1", "replace")
    return b"\x93NUMPY" + bytes([version, 0]) + len(header).to_bytes(2 if version == 1 else 4, "little") + header + data


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def by_numpy(payload: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # files of Python 2
        loaded: np.ndarray = np.load(io.BytesIO(payload), allow_pickle=False)
    return loaded


def same(ours: Any, theirs: np.ndarray) -> bool:
    """To the last bit: numbers that are no numbers, and letters that are none, are compared as well."""
    assert isinstance(ours, np.ndarray)
    order = "F" if theirs.flags.f_contiguous and not theirs.flags.c_contiguous else "C"
    forms = [(each.shape, each.dtype, each.tobytes(order)) for each in (ours, theirs)]
    return forms[0] == forms[1]


def in_the_trainer(payload: bytes, form: ArrayForm, offset: int, count: int) -> list[Any]:
    """What the trainer makes of a batch of such payloads, one of which is left out."""
    size = len(payload) - offset
    memory = mmap.mmap(-1, max(1, size))
    memory[:size] = payload[offset:]
    column = PartColumn(
        name="vae",
        kind="latent",
        rows=list(range(count)),
        offsets=[0] * count,
        lengths=[size] * count,
        sizes=b"",
        regions=b"",
        orientations=b"",
        arrays=[form] * count,
    )
    latents = Latents(column, memory, HostPlacer()).of(list(range(1, count)))
    return [latents[at, ...] if isinstance(latents, np.ndarray) else latents[at] for at in range(count - 1)]


@given(
    arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
    PLAIN,
    st.sampled_from("CF"),
    st.integers(0, 2**32),
)
def test_what_numpy_saves_is_read_as_numpy_reads_it(shape: tuple[int, ...], dtype: str, order: Any, seed: int) -> None:
    count = int(np.prod(shape))
    content = np.random.default_rng(seed).bytes(max(1, count) * np.dtype(dtype).itemsize)
    array = np.frombuffer(content, dtype, count).reshape(shape, order=order)
    payload = saved(array)
    form, offset = read_form(payload)
    assert same(as_array(memoryview(payload)[offset:], form), by_numpy(payload))
    native = array.astype(array.dtype.newbyteorder("="))
    for latent in in_the_trainer(payload, form, offset, 3):
        assert same(latent, native)


DESCR = st.one_of(
    st.sampled_from(["'<f4'", '"<f2"', "'|S0'", "'<U0'", "'|V0'", "'V'", "'|O'", "'f4,f4'", "('<f4',(2,))"]),
    st.sampled_from(["[('a','<f4')]", "'<M8[ns]'", "'<M8[]'", "'m8[99999999999s]'", "'<f3'", "'U999999999'"]),
    st.sampled_from(["'|T16'", "'a5'", "'='", "{}", "None"]),
    st.from_regex(r"\A'[<>|=]?[a-zA-Z?]\d{0,3}'\Z"),
)
LENGTH = st.one_of(
    st.integers(-2, 5).map(str),
    st.sampled_from([str(2**power) for power in (31, 40, 62, 63, 64, 70)]),
    st.sampled_from(["True", "False", "1L", "01", "1_0", "0x1", "1e0", "'1'", "()", "2 2", "~1", ""]),
)
SHAPE = st.one_of(
    st.lists(LENGTH, max_size=4).map(lambda lengths: f"({''.join(f'{length}, ' for length in lengths)})"),
    st.sampled_from(["(3)", "3", "[3]", "(,)", "(1,,2)", "(" + "1," * 65 + ")"]),
    st.sampled_from(["(" * 3000, "-" * 9000, "(1," * 90 + ")" * 90]),
)


@given(
    DESCR, SHAPE, st.integers(0, 40), st.sampled_from([0, 1, 2, 3, 9]), st.sampled_from(["True", "False", "0", "None"])
)
def test_a_header_is_refused_or_read_as_numpy_reads_it(
    descr: str, shape: str, size: int, version: int, order: str
) -> None:
    judge(npy(descr, shape, bytes(range(size)), version, order))


@given(st.binary(max_size=80), st.integers(0, 200), st.integers(0, 40), st.sampled_from([1, 2, 3]))
def test_a_damaged_header_is_refused_or_read_as_numpy_reads_it(noise: bytes, at: int, cut: int, version: int) -> None:
    good = npy("'<f4'", "(2, 3)", bytes(24), version)
    judge(good[:at] + noise + good[at + cut :])


def judge(payload: bytes) -> None:
    if not payload.startswith(b"\x93NUMPY"):
        return  # plain bytes
    try:
        form, offset = read_form(payload)
    except BadArray:
        return
    theirs = by_numpy(payload)
    assert same(as_array(memoryview(payload)[offset:], form), theirs)
    for latent in in_the_trainer(payload, form, offset, 3):
        assert same(latent, theirs.astype(theirs.dtype.newbyteorder("=")))


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (npy("'|S0'", "(5,)"), "take no bytes"),
        (npy("'<f4'", f"(0, {2**62})"), "too large"),
        (npy("'<f4'", f"(0, {2**40}, {2**40})"), "too large"),
        (npy("'<f4'", f"(0, {2**70})"), "does not describe a numeric array"),
        (npy("'|u1'", "(" + "1," * 32 + ")", b"x"), "32 axes, at most 31 are allowed"),
        (npy("'<f4'", "(True,)", b"abcd"), "does not describe a numeric array"),
        (npy("'<f4'", "(" * 3000), "does not describe a numeric array"),
        (npy("'<f4'", "(-1,)", b"abcd"), "does not describe a numeric array"),
        (npy("'|O'", "(1,)", b"abcd"), "does not describe a numeric array"),
        (npy("'<f4'", "(2,)", b"abcd"), "do not make 4 bytes"),
        (npy("'<f3'", "(1,)", b"abc"), "not a numeric dtype"),
        (b"\x93NUMPY", "version"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f", "2147483647 bytes"),
    ],
)
def test_the_reason_is_told(payload: bytes, words: str) -> None:
    with pytest.raises(BadArray, match=words):
        read_form(payload)
