"""The tar reader against `tarfile`: the same members from any archive, and an end with any damage."""

from __future__ import annotations

import io
import random
import tarfile
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datago_gpu.sources.webdataset.tar import BadShard, TarStream
from tests.support.shards import keys, tar_bytes

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
_NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=300)


def members(data: bytes, *, contents: bool = True) -> list[tuple[str, bytes]]:
    stream = TarStream(io.BufferedReader(io.BytesIO(data)))  # type: ignore[arg-type]
    return [(name, stream.read() if contents else b"") for name, _, link in stream if not link]


def as_tarfile_reads(data: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as tar:
        wanted = [info for info in tar if info.isreg() and not info.issparse()]
        files = [(info.name, tar.extractfile(info)) for info in wanted]
        return [(name, file.read()) for name, file in files if file is not None]


@settings(max_examples=80)
@given(st.lists(st.tuples(_NAMES, st.binary(max_size=1200)), max_size=6), st.sampled_from(FORMATS))
def test_members_are_those_that_tarfile_finds(files: list[tuple[str, bytes]], form: int) -> None:
    try:
        data = tar_bytes(files, form)
    except ValueError:  # ustar does not take every name
        return
    if files:
        assert members(data) == as_tarfile_reads(data)
        assert members(data, contents=False) == [(name, b"") for name, _ in as_tarfile_reads(data)]


def test_what_is_no_plain_file_is_passed_over() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number, kind in enumerate((tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE,
                                       tarfile.BLKTYPE, tarfile.FIFOTYPE)):  # fmt: skip
            info = tarfile.TarInfo(f"{number}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("x" * 500 + ".jpg")
        info.size, info.pax_headers = 3, {"comment": "y" * 5000}
        tar.addfile(info, io.BytesIO(b"abc"))
    assert members(out.getvalue()) == [("x" * 500 + ".jpg", b"abc")]


def test_sparse_files_of_all_forms_are_passed_over_and_what_follows_is_found() -> None:
    def header(name: str, size: int, kind: bytes) -> bytearray:
        info = tarfile.TarInfo(name)
        info.size, info.type = size, kind
        return bytearray(info.tobuf(tarfile.USTAR_FORMAT))

    def signed(block: bytearray) -> bytes:
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        return bytes(block)

    old = header("old.jpg", 512, tarfile.GNUTYPE_SPARSE)
    old[386:410] = b"00000000000\00000000001000\0"[:24]
    old[483:495] = b"00000010000\0"
    records = b"".join(
        b"%d %s" % (len(record) + 3, record)
        for record in (b"GNU.sparse.major=1\n", b"GNU.sparse.minor=0\n", b"GNU.sparse.name=new.jpg\n")
    )
    pax = signed(header("pax", len(records), tarfile.XHDTYPE)) + records.ljust(512, b"\0")
    new = signed(header("GNUSparseFile/new.jpg", 1024, tarfile.REGTYPE)) + b"1\n0\n512\n".ljust(512, b"\0") + bytes(512)
    last = tar_bytes([("last.jpg", b"x")])
    assert members(signed(old) + bytes(512) + pax + new + last) == [("last.jpg", b"x")]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("size", [300_000, 8**11 - 1, -5000])
def test_a_header_of_any_length_is_not_read_into_memory(kind: bytes, size: int) -> None:
    info = tarfile.TarInfo("x")
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)  # type: ignore[attr-defined]
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises(BadShard, match="a header of"):
        members(bytes(block) + bytes(10_000))


def test_digits_without_end_in_a_header_take_no_time() -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 200_000
    with pytest.raises(BadShard, match="invalid header"):
        members(info.tobuf(tarfile.USTAR_FORMAT) + b"1" * 200_192)


def test_headers_within_headers_end() -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 0
    with pytest.raises(BadShard):
        members(info.tobuf(tarfile.USTAR_FORMAT) * 5000)


GOOD = tar_bytes(
    [
        (f"{'deep/' * 30 * (number % 2)}{number}.jpg", random.Random(number).randbytes(700 * number))
        for number in range(6)
    ]
)


@settings(max_examples=300)
@given(st.data())
def test_any_damage_ends_in_words_and_costs_nothing_before_it(data: st.DataObject) -> None:
    damaged = bytearray(GOOD[: data.draw(st.integers(0, len(GOOD)))])
    first = len(damaged)
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, max(0, len(damaged) - 1)))
        first = min(first, place)
        damaged[place : place + 1] = data.draw(st.binary(min_size=1, max_size=1))
    found = []
    with suppress(BadShard):
        stream = TarStream(io.BufferedReader(io.BytesIO(bytes(damaged))))  # type: ignore[arg-type]
        found.extend((name, stream.read()) for name, *_ in stream)
    whole = members(GOOD)
    with tarfile.open(fileobj=io.BytesIO(GOOD)) as tar:
        complete = sum(info.offset_data + info.size <= first for info in tar)
    assert found[:complete] == whole[:complete]


def test_names_that_are_not_utf_8_are_shown_escaped(tmp_path: Path) -> None:
    data = tar_bytes([(b"caf\xe9.jpg".decode("utf-8", "surrogateescape"), b"x")], tarfile.GNU_FORMAT)
    (tmp_path / "a.tar").write_bytes(data)
    assert keys(tmp_path / "a.tar") == [r"caf\xe9"]


def test_an_error_of_the_file_is_passed_on() -> None:
    class Broken(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: object) -> int:
            raise zlib.error("damaged")

    with pytest.raises(zlib.error):
        list(TarStream(io.BufferedReader(Broken())))  # type: ignore[arg-type]
