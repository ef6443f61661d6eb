"""What becomes an image, under which id and source, and how changes are noticed."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

import pytest

from datago_gpu.errors import ConfigError
from datago_gpu.server import DataroomServer
from datago_gpu.server.folder import Folder
from tests.server.conftest import Client, add_image, request


def ids(root: Path) -> dict[str, str]:
    """Path below the root -> id."""
    return {os.path.relpath(record.path, root): record.id for record in Folder(root).scan() or []}


def test_a_missing_root_is_a_config_error_that_names_it(tmp_path: Path) -> None:
    file = add_image(tmp_path / "file.jpg")
    for root in (tmp_path / "missing", file):
        with pytest.raises(ConfigError, match=root.name):
            DataroomServer(root)


def test_an_empty_folder_is_served(tmp_path: Path) -> None:
    with DataroomServer(tmp_path, watch_interval_s=None) as server:
        assert Client(server)("images/").json == {"next": None, "results": []}


def test_a_busy_port_is_a_config_error(client: Client, gallery: Path) -> None:
    port = int(client.server.url.split(":")[2].split("/")[0])
    with pytest.raises(ConfigError, match=str(port)):
        DataroomServer(gallery, port=port).start()


@pytest.mark.parametrize(
    "wrong",
    [{"port": 70000}, {"payload_port": -1}, {"key": "a b"}, {"key": ""}, {"url_ttl_s": 0}, {"watch_interval_s": 0}],
)
def test_a_wrong_setting_is_a_config_error(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        DataroomServer(tmp_path, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", ["jpg", "JPEG", "png", "bmp", "gif", "webp", "tif", "tiff", "jp2", "avif"])
def test_these_endings_are_images(tmp_path: Path, ending: str) -> None:
    add_image(tmp_path / f"x.{ending}", (24, 16))
    (record,) = Folder(tmp_path).scan() or []
    assert (record.facts.width, record.facts.height) == (24, 16)


def test_other_files_are_not(tmp_path: Path) -> None:
    add_image(tmp_path / "x.jpg").rename(tmp_path / "x.txt")
    assert ids(tmp_path) == {}


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    from PIL import Image

    image = Image.new("RGB", (30, 20))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "x.jpg", exif=exif)
    (record,) = Folder(tmp_path).scan() or []
    assert (record.facts.width, record.facts.height) == (30, 20)


def test_an_id_is_asked_for_or_the_stem_or_derived(tmp_path: Path) -> None:
    for name in ("a/x.jpg", "b/x.jpg", "c/x.png", "plain.jpg", "sp ace.jpg", "\u00e9t\u00e9.jpg"):
        add_image(tmp_path / name)
    add_image(tmp_path / "c/y.jpg", sidecar={"id": "x"})
    add_image(tmp_path / "d/z.jpg", sidecar={"id": "z-1"})
    found = ids(tmp_path)
    assert (found["c/y.jpg"], found["d/z.jpg"], found["plain.jpg"]) == ("x", "z-1", "plain")
    derived = [found[name] for name in ("a/x.jpg", "b/x.jpg", "c/x.png", "sp ace.jpg", "\u00e9t\u00e9.jpg")]
    assert len(set(derived)) == 5
    assert all(name.rpartition("-")[0] in ("x", "sp_ace", "_t_") for name in derived)
    assert ids(tmp_path) == found


def test_a_source_is_asked_for_or_the_top_folder_or_the_root(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    add_image(root / "one.jpg")
    add_image(root / "top/deep/two.jpg")
    add_image(root / "top/three.jpg", sidecar={"source": "mine"})
    records = Folder(root).scan() or []
    assert {record.id: record.source for record in records} == {"one": "photos", "two": "top", "three": "mine"}


BAD_SIDECARS = [
    "{", "[]", "null", '{"id": "a b"}', '{"id": ""}', '{"id": 7}', '{"tags": "x"}', '{"tags": [1]}', '{"source": ""}',
    '{"duplicate_state": 3}', '{"datasets": ["food"]}', '{"coca_embedding": ["x"]}', '{"attributes": []}',
    '{"latents": [{"latent_type": "a/b", "file": "x"}]}', '{"latents": [{"latent_type": "a"}]}',
    '{"latents": [{"latent_type": "a", "file": "x"}, {"latent_type": "a", "file": "y"}]}', '{"a": ' + "[" * 100000,
    "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_SIDECARS)
def test_an_image_with_a_bad_sidecar_is_skipped_and_logged_once(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    add_image(tmp_path / "good.jpg")
    add_image(tmp_path / "bad.jpg")
    (tmp_path / "bad.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with caplog.at_level(logging.WARNING):
        folder = Folder(tmp_path)
        for number in range(3):
            add_image(tmp_path / f"good{number}.jpg")
            assert "bad" not in [record.id for record in folder.scan() or []]
    assert len([line for line in caplog.messages if "bad.json" in line]) == 1


@pytest.mark.parametrize(
    "data", [b"", b"not an image", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n\x1a\n\0\0"]
)
def test_an_unreadable_image_is_skipped_and_logged_once(
    tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    add_image(tmp_path / "good.jpg")
    (tmp_path / "bad.jpg").write_bytes(data)
    with caplog.at_level(logging.WARNING):
        folder = Folder(tmp_path)
        assert [record.id for record in folder.scan() or []] == ["good"]
        add_image(tmp_path / "more.jpg")
        assert [record.id for record in folder.scan() or []] == ["good", "more"]
    assert len([line for line in caplog.messages if "bad.jpg" in line]) == 1


def test_a_missing_latent_is_left_out_until_it_comes(tmp_path: Path) -> None:
    add_image(tmp_path / "x.jpg", sidecar={"latents": [{"latent_type": "vae", "file": "x.npy"}]})
    with DataroomServer(tmp_path, watch_interval_s=None) as server:
        client = Client(server)
        assert client("images/", has_latents="vae").status == 400
        (tmp_path / "x.npy").write_bytes(b"1")
        server.refresh()
        assert client.ids(has_latents="vae") == ["x"]


def test_null_means_missing_in_a_sidecar(tmp_path: Path) -> None:
    keys = ["id", "source", "attributes", "tags", "duplicate_state", "datasets", "coca_embedding", "latents"]
    add_image(tmp_path / "x.jpg", sidecar=dict.fromkeys(keys))
    with DataroomServer(tmp_path, watch_interval_s=None) as server:
        image = Client(server)("images/x/", all_fields="true").json
    assert (image["attributes"], image["tags"], image["latents"], image["coca_embedding"]) == ({}, [], [], None)


def test_odd_attribute_values_come_back_as_they_are(tmp_path: Path) -> None:
    odd = {"big": 10**30, "text": '"\\\n\u2028\U0001f600\0', "list": [1, None, {"a": []}], "none": [], "deep": [[1]]}
    add_image(tmp_path / "x.jpg", sidecar={"attributes": odd})
    with DataroomServer(tmp_path, watch_interval_s=None) as server:
        assert Client(server)("images/x/").json["attributes"] == odd


def test_new_changed_and_removed_files_are_noticed(tmp_path: Path) -> None:
    add_image(tmp_path / "a.jpg", (40, 30), {"tags": ["old"]})
    add_image(tmp_path / "b.jpg")
    with DataroomServer(tmp_path, watch_interval_s=None) as server:
        client = Client(server)
        before = {name: client(f"images/{name}/").json for name in ("a", "b")}
        assert server.refresh() == 2
        add_image(tmp_path / "a.jpg", (60, 30), {"tags": ["new"]})
        (tmp_path / "b.jpg").unlink()
        add_image(tmp_path / "c.jpg", color=9)
        assert client.ids() == ["a", "b"]
        assert server.refresh() == 2
        assert client.ids() == ["a", "c"]
        after = client("images/a/").json
        assert (after["width"], after["tags"]) == (60, ["new"])
        assert after["image_hash"] != before["a"]["image_hash"]
        assert client("images/", tags="old").status == 400
        assert request(before["b"]["image_direct_url"]).status == 404
        (tmp_path / "a.json").unlink()
        server.refresh()
        assert client("images/a/").json["tags"] == []


def test_changes_are_noticed_without_being_asked(tmp_path: Path) -> None:
    with DataroomServer(tmp_path, watch_interval_s=0.02) as server:
        client = Client(server)
        add_image(tmp_path / "a.jpg")
        deadline = time.monotonic() + 20
        while client.ids() != ["a"]:
            assert time.monotonic() < deadline


def test_unchanged_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_image(tmp_path / "a.jpg")
    read: list[str] = []
    folder = Folder(tmp_path)
    original = folder._facts._read
    monkeypatch.setattr(folder._facts, "_read", lambda path: read.append(Path(path).name) or original(path))
    assert folder.scan() is not None
    assert folder.scan() is None
    add_image(tmp_path / "b.jpg")
    assert len(folder.scan() or []) == 2
    assert read == ["a.jpg", "b.jpg"]


def test_a_server_closes_twice_and_from_any_state(tmp_path: Path) -> None:
    unstarted = DataroomServer(tmp_path)
    unstarted.close()
    started = DataroomServer(tmp_path)
    started.start()
    url = started.url
    for _ in range(2):
        started.close()
    with pytest.raises(ConnectionRefusedError):
        request(url)
    with pytest.raises(RuntimeError):
        started.start()


def test_the_key_is_made_and_not_shown(tmp_path: Path) -> None:
    server = DataroomServer(tmp_path)
    assert len(server.key) == 40
    assert server.key not in repr(server)
    server.close()


def test_the_folder_is_left_as_it_was(tmp_path: Path) -> None:
    add_image(tmp_path / "a.jpg", sidecar=json.loads('{"tags": ["x"]}'))
    before = sorted(os.listdir(tmp_path))
    with DataroomServer(tmp_path, watch_interval_s=None):
        pass
    assert sorted(os.listdir(tmp_path)) == before


def test_hidden_images_are_served_only_where_they_are_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sidecar = {"latents": [{"latent_type": "vae", "file": ".vae/1.npy"}]}
    add_image(tmp_path / "1.jpg", sidecar=sidecar)
    for name in (".ipynb_checkpoints/1-checkpoint.jpg", "a/._1.jpg", "__MACOSX/1.jpg"):
        add_image(tmp_path / name)
    for name in (".vae/1.npy", "2.tga"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    folder = Folder(tmp_path)
    (record,) = folder.scan() or []
    assert [latent.path for latent in record.latents] == [f"{tmp_path}/.vae/1.npy"]  # what a sidecar names is meant
    add_image(tmp_path / "3.jpe")
    assert len(folder.scan() or []) == 2
    assert caplog.messages == [
        "passed over 3 hidden images, such as '.ipynb_checkpoints/1-checkpoint.jpg': --hidden serves them",
        "passed over 1 images of formats that are not served (.tga)",
    ]
    assert len(Folder(tmp_path, hidden=True).scan() or []) == 5
