"""An index of shards: the samples and the sizes of a Loader, and where their files lie."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import SourceError
from datago_gpu.index.build import build_index, part_of
from tests.index.test_folder_index import journal_of
from tests.support.indexes import HASTY, delivered, make, read_rows, reasons, usable
from tests.support.moto_s3 import KEY, SECRET, s3_server
from tests.support.pictures import encode, oriented_jpeg, picture
from tests.support.servers import Answer, MisbehavingServer, Request
from tests.support.shards import Files, tar_bytes


def shard_config(url: str | Path, **source: Any) -> dict[str, Any]:
    return {"source_type": "webdataset", "source_config": {"url": str(url), **source}, "http_config": HASTY}


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros((2, 3), np.float32))
    return file.getvalue()


def samples(begin: int, end: int) -> list[tuple[str, bytes]]:
    files: list[tuple[str, bytes]] = []
    for number in range(begin, end):
        key = f"s/{number:04}"
        turned = 6 if number % 3 == 0 else 1
        files += [
            (f"{key}.jpg", oriented_jpeg(picture(20 + number % 9, 40), turned)),
            (f"{key}.json", json.dumps({"caption": f"number {number}"}).encode()),
            (f"{key}.mask.png", encode(picture(20, 40)[..., 0], "PNG")),
            (f"{key}.npy", npy()),
        ]
    return files


def odd_files() -> Files:
    """Samples that a Loader delivers, and some that it skips."""
    whole = encode(picture(60, 90), "JPEG")
    yield from samples(0, 3)
    yield "cut.jpg", whole[: len(whole) // 2]
    yield "empty.png", b""
    yield "text.jpg", b"no picture"
    yield "alone.json", b"{}"
    yield "twice.jpg", whole
    yield "twice.jpg", whole
    yield "two.jpg", whole
    yield "two.png", encode(picture(10, 10), "PNG")
    yield "gif.gif", encode(picture(30, 50), "GIF")
    yield "bad-json.jpg", whole
    yield "bad-json.json", b"{"
    yield f"{'long/' * 60}name.jpg", whole
    yield ".hidden.jpg", whole
    yield "caf\N{LATIN SMALL LETTER E WITH ACUTE}.webp", encode(picture(70, 30), "WEBP")


def check_places(out: Path, contents: dict[str, bytes]) -> None:
    """Each row's bytes are a picture of its size, and each part's are those of a file of the shard."""
    for row in read_rows(out):
        if row["reason"]:
            continue
        tar = contents[(row["path"] or row["url"]).rpartition("/")[2]]
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            files = {archive.extractfile(member).read() for member in archive if member.isreg()}  # type: ignore[union-attr]
        assert row["bytes"] == row["length"]
        for place in (row, *row["parts"]):
            assert tar[place["offset"] : place["offset"] + place["length"]] in files


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_local_shard_has_the_samples_of_a_loader(form: int, tmp_path: Path) -> None:
    contents = {"a.tar": tar_bytes(odd_files(), form), "b.tar": tar_bytes(samples(5, 9), form)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    config, out = shard_config(tmp_path), tmp_path / "x.arrow"
    make(config, out)
    assert len(usable(out)) == 3 + 5 + 4
    assert form != tarfile.PAX_FORMAT or usable(out) == delivered(config)
    assert reasons(out) == {
        "alone": "no-image",
        "cut": "undecodable",
        "empty": "empty",
        "text": "unknown-format",
        "twice": "bad-entry",
    }
    check_places(out, contents)
    rows = read_rows(out)
    assert {row["path"] for row in rows} == {"a.tar", "b.tar"}
    assert [row["attributes"] for row in rows[-2:]] == ['{"caption":"number 7"}', '{"caption":"number 8"}']
    assert rows[-1]["source"] == "webdataset"


def test_parts_that_are_asked_for_have_their_places(tmp_path: Path) -> None:
    lacking = [file for file in samples(3, 4) if not file[0].endswith("npy")]
    whole = encode(picture(9, 9), "JPEG")
    bad = [(f"s/0005{end}", content) for end, content in ((".jpg", whole), (".mask.png", b""))]
    bad += [(f"s/0006{end}", content) for end, content in ((".jpg", whole), (".mask.png", b"no picture"))]
    bad += [(f"s/0007{end}", content) for end, content in ((".jpg", whole), (".mask.png", whole), (".npy", b""))]
    content = tar_bytes([*samples(0, 3), *lacking, *samples(4, 5), *bad])
    (tmp_path / "a.tar").write_bytes(content)
    config = shard_config(tmp_path / "a.tar", masks=["mask.png"], latents=["npy"], optional=["npy"])
    make(config, tmp_path / "x.arrow")
    assert list(usable(tmp_path / "x.arrow")) == [f"s/{number:04}" for number in range(5)]
    assert reasons(tmp_path / "x.arrow") == {"s/0005": "empty", "s/0006": "unknown-format", "s/0007": "empty"}
    check_places(tmp_path / "x.arrow", {"a.tar": content})
    parts = [[(part["name"], part["kind"]) for part in row["parts"]] for row in read_rows(tmp_path / "x.arrow")]
    mask, latent = ("mask.png", "mask"), ("npy", "latent")
    assert parts == [[mask, latent]] * 3 + [[mask], [mask, latent], [mask], [mask], [mask, latent]]


def test_links_lead_to_the_file_that_they_name(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in samples(0, 1):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in (("b.jpg", "s/0000.jpg"), ("c.jpg", "nothing.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, target
            archive.addfile(info)
    config = shard_config(tmp_path / "a.tar")
    make(config, tmp_path / "x.arrow")
    assert usable(tmp_path / "x.arrow") == {"s/0000": (20, 40), "b": (20, 40)}
    assert reasons(tmp_path / "x.arrow") == {"c": "link"}
    check_places(tmp_path / "x.arrow", {"a.tar": (tmp_path / "a.tar").read_bytes()})


def test_a_shard_that_ends_early_or_is_compressed_has_one_row_for_that(tmp_path: Path) -> None:
    good = tar_bytes(samples(0, 4))
    (tmp_path / "a.tar").write_bytes(good[: good.rindex(b"NUMPY") + 20])
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(tar_bytes(samples(4, 6))))
    (tmp_path / "c.tar").write_bytes(b"PK\x03\x04 not a tar")
    (tmp_path / "d.tar").write_bytes(b"")
    (tmp_path / "e.tar").write_bytes(tar_bytes(samples(6, 8)))
    (tmp_path / "f.tar").write_bytes(tar_bytes([("README", b"no sample")]))
    out = tmp_path / "x.arrow"
    make(shard_config(tmp_path), out)
    assert reasons(out) == {"a.tar": "bad-shard", "b.tar.gz": "compressed-shard", "c.tar": "bad-shard",
                            "d.tar": "bad-shard", "f.tar": "no-samples"}  # fmt: skip
    assert usable(out) == delivered(shard_config(f"{tmp_path}/{{a,e}}.tar"))
    details = {row["path"]: row["detail"] for row in read_rows(out) if row["reason"]}
    assert "decompress the shard" in details["b.tar.gz"]
    assert "a ZIP archive" in details["c.tar"]


def test_shards_in_another_folder_change_the_root_and_no_row_is_taken_for_another(tmp_path: Path) -> None:
    out = tmp_path / "x.arrow"
    for name in ("a/1.tar", "b/1.tar"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(tar_bytes(samples(0, 2 + (name[0] == "b"))))
        summary = make(shard_config(f"{tmp_path}/*/*.tar"), out, update=True)
    assert (summary.rows, summary.known) == (5, 0)
    make(shard_config(f"{tmp_path}/*/*.tar"), tmp_path / "fresh.arrow")
    assert out.read_bytes() == (tmp_path / "fresh.arrow").read_bytes()


def test_an_update_reads_only_shards_that_have_changed(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.tar").write_bytes(tar_bytes(samples(number * 5, number * 5 + 5)))
    config, out = shard_config(f"{tmp_path}/{{0..4}}.tar::{tmp_path}/0.tar"), tmp_path / "x.arrow"
    make(config, out)
    assert reasons(out) == {"4.tar": "missing"}
    (tmp_path / "4.tar").write_bytes(tar_bytes(samples(20, 23)))
    (tmp_path / "2.tar").write_bytes(tar_bytes(samples(30, 31)))
    summary = make(config, out, update=True)
    assert (summary.rows, summary.known) == (4 * 5 + 3 + 1, 4 * 5)
    make(config, tmp_path / "fresh.arrow")
    assert out.read_bytes() == (tmp_path / "fresh.arrow").read_bytes()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], bytes, bytes]:
    """The settings of some shards, one of which is listed twice in a row; their index, and the journal of it."""
    folder = tmp_path_factory.mktemp("small")
    for number in range(6):
        content = tar_bytes(samples(number * 4, number * 4 + 1 + number))
        (folder / f"{number}.tar").write_bytes(content[: 9000 if number == 3 else None])
    config = shard_config(f"{folder}/{{0,1,1,2,3,4,5}}.tar")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datago_gpu.index.keeping._ROWS_A_WRITE", 3)
        journal = journal_of(config, folder)
    build_index(LoaderConfig.load(config), folder / "whole.arrow", readers=1)
    return config, (folder / "whole.arrow").read_bytes(), journal


@settings(max_examples=12)
@given(share=st.floats(0, 1))
def test_wherever_it_was_killed_the_same_file_comes_out(
    small: tuple[dict[str, Any], bytes, bytes], share: float
) -> None:
    config, whole, journal = small
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "x.arrow"
        part_of(out).write_bytes(journal[: int(share * len(journal))])
        make(config, out)
        assert out.read_bytes() == whole


FAULTS: list[Callable[[Answer], Answer]] = [
    lambda good: good,
    lambda _: Answer(503, headers={"Retry-After": "0"}),
    lambda good: Answer(200, good.body, good.headers, ranges=True, cut_after=len(good.body) // 2),
    lambda good: Answer(200, good.body, good.headers, ranges=True, reset_after=len(good.body) // 3),
    lambda good: Answer(200, good.body, good.headers, chunked=True),
]


def serve(server: MisbehavingServer, contents: dict[str, bytes], *, rough: bool = False) -> str:
    """Serves shards, each with a fault of its own before it is sent as it should be."""
    seen: dict[str, int] = {}

    def answer(request: Request) -> Answer:
        name = request.path.removeprefix("/")
        good = Answer(200, contents[name], {"ETag": f'"{hash(contents[name])}"'}, ranges=True)
        seen[name] = seen.get(name, 0) + 1
        return FAULTS[int(name[0]) % len(FAULTS)](good) if rough and seen[name] < 4 else good

    for name in contents:
        server.route(f"/{name}", answer)
    return f"{server.url}/{{0..{len(contents) - 1}}}.tar"


def test_shards_of_a_misbehaving_server_have_the_rows_of_local_ones(tmp_path: Path) -> None:
    contents = {f"{number}.tar": tar_bytes(samples(number * 9, number * 9 + 9)) for number in range(5)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    make(shard_config(tmp_path), tmp_path / "local.arrow")
    with MisbehavingServer() as server:
        out = tmp_path / "remote.arrow"
        make(shard_config(serve(server, contents, rough=True), auth_token="secret-token"), out)
        check_places(out, contents)
        assert {request.headers["authorization"] for request in server.requests} == {"Bearer secret-token"}
        url = server.url
    assert b"secret-token" not in out.read_bytes()
    same = ("id", "offset", "length", "bytes", "width", "height", "format", "attributes", "parts", "reason")
    local, remote = read_rows(tmp_path / "local.arrow"), read_rows(out)
    assert [[row[name] for name in same] for row in local] == [[row[name] for name in same] for row in remote]
    assert [row["url"] for row in remote] == [f"{url}/{row['path']}" for row in local]


def test_remote_shards_that_cannot_be_read_are_lost_alone_and_an_update_reads_only_new_ones(tmp_path: Path) -> None:
    contents = {f"{number}.tar": tar_bytes(samples(number * 2, number * 2 + 2)) for number in range(5)}
    compressed, out = {**contents, "1.tar": gzip.compress(contents["1.tar"])}, tmp_path / "x.arrow"
    with MisbehavingServer() as server:
        config = shard_config(serve(server, compressed))
        server.script("/3.tar", Answer(404))
        make(config, out)
        assert {row["reason"] for row in read_rows(out)} == {None, "compressed-shard", "http-404"}
        assert len(usable(out)) == 6
        serve(server, contents)
        before = {name: server.count(f"/{name}") for name in contents}
        assert make(config, out, update=True).known == 6
        asked = {name: server.count(f"/{name}") - before[name] for name in contents}
    assert asked == {"0.tar": 1, "1.tar": 2, "2.tar": 1, "3.tar": 2, "4.tar": 1}
    assert len(usable(out)) == 10


def test_shards_with_new_signatures_are_not_read_again(tmp_path: Path) -> None:
    contents, out = {"0.tar": tar_bytes(samples(0, 3))}, tmp_path / "x.arrow"
    with MisbehavingServer() as server:
        serve(server, contents)
        config = shard_config(f"{server.url}/0.tar?sig=one", masks="mask.png")
        make(config, out)
        config["source_config"]["url"] = f"{server.url}/0.tar?sig=two"
        assert make(config, out, update=True).known == 3
    places = [place for row in read_rows(out) for place in (row, *row["parts"])]
    assert {place["url"] for place in places} == {f"{server.url}/0.tar?sig=two"}


def test_no_secret_is_written(tmp_path: Path) -> None:
    contents = {"0.tar": tar_bytes(samples(0, 2))}
    with MisbehavingServer() as server:
        url = serve(server, contents).replace("http://", "http://somebody:pass-word@")
        make(shard_config(url, auth_token="secret-token"), tmp_path / "x.arrow")
        assert len(usable(tmp_path / "x.arrow")) == 2
    content = (tmp_path / "x.arrow").read_bytes()
    assert [word for word in (b"pass-word", b"secret-token", b"c29tZWJvZHk6") if word in content] == []


def test_no_access_to_shards_ends_the_run(tmp_path: Path) -> None:
    with MisbehavingServer() as server:
        for number in range(3):
            server.script(f"/{number}.tar", Answer(403))
        with pytest.raises(SourceError, match=r"3 shards in a row could not be loaded \(3 http-403\)"):
            make(shard_config(server.url + "/{0..2}.tar"), tmp_path / "x.arrow")


def test_shards_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    contents = {f"{number}.tar": tar_bytes(samples(number * 3, number * 3 + 3)) for number in range(2)}
    with s3_server("shards-to-index", [(f"train/{name}", content) for name, content in contents.items()]) as endpoint:
        options = {"endpoint": endpoint, "access_key_id": KEY, "secret_access_key": SECRET, "region": "us-east-1"}
        config = shard_config("s3://shards-to-index/train", storage_options=options)
        make(config, tmp_path / "x.arrow")
        check_places(tmp_path / "x.arrow", contents)
        assert read_rows(tmp_path / "x.arrow")[0]["url"] == "s3://shards-to-index/train/0.tar"
        assert len(usable(tmp_path / "x.arrow")) == make(config, tmp_path / "x.arrow", update=True).known == 6
