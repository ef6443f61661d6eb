"""Shards as people have them: joined, linked, compressed, oddly named, at addresses of every form."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import logging
import lzma
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu import Loader, SourceError
from datago_gpu.config.shards import KeyDots, addresses_in, without_login
from datago_gpu.sources.webdataset.grouping import split_name
from datago_gpu.sources.webdataset.tar import TarStream
from tests.support.images import add_picture
from tests.support.servers import Answer, MisbehavingServer
from tests.support.shards import tar_bytes
from tests.support.zstd import zstd_compress


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return add_picture(tmp_path_factory.mktemp("picture") / "a.jpg").read_bytes()


@pytest.fixture(scope="module")
def shard(picture: bytes) -> bytes:
    return tar_bytes([(f"{number}.jpg", picture) for number in range(4)])


IDS = ["0", "1", "2", "3"]


def taken(url: str, **source: Any) -> tuple[list[str], list[dict[str, Any]], dict[str, int]]:
    """The ids and attributes that come, and what is skipped."""
    config = {"source_type": "webdataset", "source_config": {"url": url, **source}, "http_config": {"max_tries": 1}}
    ids, attributes = [], []
    with Loader(config, device="cpu", backend="pillow") as loader:
        for batch in loader:
            ids += batch.ids
            attributes += batch.attributes
        return ids, attributes, loader.stats().skipped


def names(data: bytes) -> list[str]:
    return [member.name for member in TarStream(io.BufferedReader(io.BytesIO(data)))]  # type: ignore[arg-type]


@given(st.lists(st.lists(st.binary(max_size=600), max_size=3), max_size=4), st.integers(0, 40), st.binary(max_size=700))
def test_archives_that_are_joined_are_read_one_after_the_other(
    archives: list[list[bytes]], zeros: int, garbage: bytes
) -> None:
    """With any padding between; what is no archive behind the last one is passed over, as tar does."""
    data, expected = b"", []
    for number, contents in enumerate(archives):
        files = [(f"{number}-{place}", content) for place, content in enumerate(contents)]
        data += tar_bytes(files) + bytes(512 * zeros)
        expected += [name for name, _ in files]
    if archives:
        assert names(data) == expected
        assert names(data + b"\xff" + garbage) == expected


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "gzip, several members": lambda data: b"".join(
        gzip.compress(data[at : at + 3000]) for at in range(0, len(data), 3000)
    ),
    "gzip, twice": lambda data: gzip.compress(gzip.compress(data)),
    "bz2": bz2.compress,
    "bz2, several streams": lambda data: bz2.compress(data[:3000]) + bz2.compress(data[3000:]),
    "bz2, and bytes behind": lambda data: bz2.compress(data) + b"something else",
    "xz": lzma.compress,
    "zstd": zstd_compress,
    "pzstd": lambda data: b"".join(
        b"\x50\x2a\x4d\x18\x04\x00\x00\x00" + len(frame).to_bytes(4, "little") + frame
        for frame in (zstd_compress(data[at : at + 4096]) for at in range(0, len(data), 4096))
    ),
}


@pytest.mark.parametrize("form", PACKED)
def test_every_compression_is_undone_whatever_the_name_says(form: str, shard: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(PACKED[form](shard))
    assert taken(str(tmp_path / "a.tar"))[0] == IDS


@pytest.mark.parametrize("form", ["bz2", "xz", "zstd", "gzip"])
def test_a_compressed_shard_that_is_cut_costs_what_is_behind(form: str, shard: bytes, tmp_path: Path) -> None:
    packed = PACKED[form](shard)
    (tmp_path / "a.tar").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "b.tar").write_bytes(shard)
    ids, _, skipped = taken(f"{tmp_path}/{{a,b}}.tar")
    assert (ids[-4:], skipped) == (IDS, {"bad-shard": 1})


def test_a_folder_of_shards_is_taken_without_what_is_hidden_in_it(shard: bytes, tmp_path: Path) -> None:
    """As the `._0.tar` that macOS writes beside each file on a disk of another system."""
    for name in ("0.TAR", "1.tar.gz", "._0.tar", ".1.tar", "notes.txt"):
        (tmp_path / name).write_bytes(b"no shard" if name.startswith(".") else shard)
    for url in (str(tmp_path), f"{tmp_path}/*[rRz]"):
        assert taken(url)[0::2] == (2 * IDS, {})


def test_what_is_no_archive_is_named(picture: bytes, tmp_path: Path) -> None:
    for content, name in (
        (b"PK\x03\x04" + bytes(600), "a ZIP archive"),
        (b"<!DOCTYPE html><title>Sign in</title>", "a page of HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (picture, "a JPEG picture"),
    ):
        (tmp_path / "a.tar").write_bytes(content)
        with pytest.raises(SourceError, match=f"it is not a tar archive, but {name}"):
            taken(str(tmp_path / "a.tar"))


def test_links_are_followed_within_a_local_shard(picture: bytes, tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, target, kind in (("d/1.jpg", "", tarfile.REGTYPE), ("d/2.jpg", "d/1.jpg", tarfile.LNKTYPE),
                                   ("d/3.jpg", "1.jpg", tarfile.SYMTYPE), ("d/4.jpg", "d/2.jpg", tarfile.LNKTYPE),
                                   ("d/5.jpg", "/etc/passwd", tarfile.SYMTYPE)):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, 0 if target else len(picture)
            tar.addfile(info, io.BytesIO(picture))
    (tmp_path / "a.tar").write_bytes(out.getvalue())
    ids, _, skipped = taken(str(tmp_path / "a.tar"))
    assert (ids, skipped) == (["d/1", "d/2", "d/3", "d/4"], {"link": 1})
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(out.getvalue()))
    ids, _, skipped = taken(str(tmp_path / "a.tar.gz"))
    assert (ids, skipped) == (["d/1"], {"link": 4})  # counted, where they cannot be followed


def test_files_of_a_sample_that_do_not_follow_each_other_are_counted(picture: bytes, tmp_path: Path) -> None:
    files = [(f"{number}.jpg", picture) for number in range(3)]
    files += [(f"{number}.json", json.dumps({"caption": number}).encode()) for number in range(3)]
    (tmp_path / "a.tar").write_bytes(tar_bytes(files))
    ids, attributes, skipped = taken(str(tmp_path / "a.tar"))
    assert (ids, attributes, skipped) == (["0", "1", "2"], [{}, {}, {}], {"no-image": 3})


DOTTED = [*(f"photo.v1.{number:02}.jpg" for number in range(3)), "IMG_2024.05.01_a.jpg", "IMG_2024.05.02_b.jpg"]


def test_names_with_dots_are_samples_of_their_own_where_the_setting_says_so(picture: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes([(name, picture) for name in DOTTED]))
    assert taken(str(tmp_path / "a.tar"))[0] == ["photo", "IMG_2024"]
    assert taken(str(tmp_path / "a.tar"), key_dots="last")[0] == [name.removesuffix(".jpg") for name in DOTTED]


@pytest.mark.parametrize("cut", [False, True])
def test_images_that_share_a_sample_are_counted_and_told_of_with_their_number(
    picture: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture, cut: bool
) -> None:
    files = [(name, picture) for name in [*DOTTED, "a.mask.png", "b.jpg", "b.mask.png"]]
    for number in range(2):
        archive = tar_bytes(files)
        (tmp_path / f"{number}.tar").write_bytes(archive[: 512 * 16 + 9] if cut else archive)
    config = {"source_type": "webdataset", "source_config": {"url": str(tmp_path), "masks": "mask", "optional": "mask"}}
    with Loader(config, device="cpu", backend="pillow") as loader:
        for _ in loader:
            pass
        stats = loader.stats()
    assert stats.flawed == {"further-images": 4}
    assert stats.delivered == (4 if cut else 6)
    of_shards = sorted(message for message in caplog.messages if "such as 'photo', contain several images" in message)
    for number, message in enumerate(of_shards):
        assert message.startswith(f"{tmp_path}/{number}.tar: 2 samples, such as ")
        assert ", 3 are left out." in message
    assert len(of_shards) == 2
    (of_sample,) = (message for message in caplog.messages if "further-images" in message)
    assert of_sample.endswith(": further-images: 2 more images are left out: none was requested by name")


@pytest.mark.parametrize("dots", ["first", "last"])
def test_files_whose_name_begins_with_a_dot_belong_to_no_sample(dots: KeyDots) -> None:
    """As the `._1.jpg` that macOS's tar adds to each `1.jpg`."""
    for name in ("._1.jpg", "a/._1.jpg", ".hidden.jpg", "a/.jpg", "./._1.jpg"):
        assert split_name(name, dots) is None
    assert split_name("./1.jpg", dots) == ("./1", "jpg")


@given(st.text("a./_", min_size=1, max_size=12))
def test_a_key_and_its_part_make_the_name_up(name: str) -> None:
    for dots in ("first", "last"):
        found = split_name(name, dots)  # type: ignore[arg-type]
        if found:
            key, part = found
            assert f"{key}.{part}" == name
            assert "/" not in part
            assert ("." not in key.rpartition("/")[2]) if dots == "first" else ("." not in part)


@pytest.mark.parametrize("name", ["a b/s#0.tar", "{a,b}/s0.tar", "x::y/s0.tar", "S0.TAR"])
def test_names_of_local_shards_mean_themselves(name: str, shard: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(shard)
    assert taken(str(path))[0] == IDS
    if "::" not in name:
        assert taken(path.as_uri())[0] == IDS
        assert taken(f"file://{path}")[0] == IDS


def test_a_list_may_begin_with_the_mark_of_utf_8(shard: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(shard)
    (tmp_path / "list.txt").write_text(f"{tmp_path}/a.tar\n{tmp_path}/a.tar\n", encoding="utf-8-sig")
    assert taken(f"@{tmp_path / 'list.txt'}")[0] == IDS * 2


def test_addresses_of_every_form_are_taken(shard: bytes) -> None:
    with MisbehavingServer() as server:
        for path in ("/s0.tar", "/S0.TAR", "/files/12345", "/packed/6"):
            server.script(path, Answer(200, gzip.compress(shard) if "packed" in path else shard))
            assert taken(server.url + path)[0] == IDS
        assert taken(server.url.replace("http", "HTTP") + "/s0.tar")[0] == IDS
        assert taken(f"{server.url}/s0.tar::{server.url}/S0.TAR")[0] == IDS * 2
        with pytest.raises(SourceError, match=r"wildcards work only for local paths and object storage.*braces"):
            taken(f"{server.url}/s*.tar")


def test_a_name_and_a_password_are_sent_as_basic_authentication_and_shown_nowhere(
    shard: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with MisbehavingServer() as server:
        proof = "Basic " + base64.b64encode(b"user:se cret-of-mine").decode()
        server.route("/a.tar", lambda request: Answer(200, shard) if request.headers.get("authorization") == proof
                     else Answer(401, b"who is there?"))  # fmt: skip
        url = f"{server.url}/a.tar".replace("http://", "http://user:se%20cret-of-mine@")
        config = {"source_type": "webdataset", "source_config": {"url": url}}
        with Loader(config, device="cpu", backend="pillow") as loader:
            assert [name for batch in loader for name in batch.ids] == IDS
            shown = [repr(loader), repr(loader.config), json.dumps(loader.state_dict())]
        wrong = url.replace("mine", "yours")
        with pytest.raises(SourceError) as caught:
            taken(wrong)
        text = "\n".join([*shown, str(caught.value), caplog.text])
        for secret in ("cret-of", proof.removeprefix("Basic ")):
            assert secret not in text


class SixServer(MisbehavingServer):
    """On the loopback address of IPv6."""

    @property
    def bracketed(self) -> str:
        return f"http://[::1]:{self.port}"


def test_a_literal_ipv6_address_is_one_address(shard: bytes) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    with SixServer("::1") as server:
        server.script("/a.tar", Answer(200, shard))
        url = f"{server.bracketed}/a.tar"
        assert addresses_in(f"{url}::/x/y.tar") == [url, "/x/y.tar"]
        assert taken(f"{url}::{url}")[0] == IDS * 2


@given(st.text(max_size=8), st.text(max_size=8))
def test_a_login_is_taken_out_of_an_address(name: str, password: str) -> None:
    address = f"https://{quote(name, safe='')}:{quote(password, safe='')}@example.org:8/a?b@c"
    plain, login = without_login(address)
    assert plain == "https://example.org:8/a?b@c"
    assert base64.b64decode(login.removeprefix("Basic ")).decode() == f"{name}:{password}"
    assert without_login(plain) == (plain, "")
