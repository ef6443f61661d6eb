"""Paths with `~`, variables of the environment and file:// mean what they mean in a shell, in every setting."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu import ConfigError, Loader, SourceError
from datago_gpu.config.local_paths import plain_path, shown_with
from datago_gpu.doctor.source_trial import checks
from datago_gpu.server import DataroomServer
from datago_gpu.sources.webdataset.addresses import list_addresses
from tests.support.images import add_picture, file_config
from tests.support.shards import tar_bytes


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home folder with a picture in it, by itself and in a shard; the tests begin in another one."""
    home = tmp_path / "home"
    picture = add_picture(home / "my pictures/1.jpg").read_bytes()
    (home / "shards").mkdir()
    (home / "shards/000.tar").write_bytes(tar_bytes([("1.jpg", picture)]))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DATA", str(home))
    monkeypatch.delenv("NOT_SET", raising=False)
    return home


def ids(source_type: str, **source: Any) -> list[str]:
    config = {"source_type": source_type, "source_config": source, "http_config": {"max_tries": 1}}
    with Loader(config, device="cpu", backend="pillow") as loader:
        return [name for batch in loader for name in batch.ids]


@pytest.mark.parametrize("form", ["~/my pictures", "$HOME/my pictures", "${DATA}/my pictures", "$DATA/./my pictures/",
                                   "file://{home}/my%20pictures", "file://localhost{home}/my%20pictures",
                                   "FILE://{home}/my pictures"])  # fmt: skip
def test_a_root_may_be_written_as_in_a_shell_or_as_a_file_address(home: Path, form: str) -> None:
    root = form.replace("{home}", str(home))
    assert ids("file", root_path=root) == ["1.jpg"]
    state = Loader(file_config(root), device="cpu", backend="pillow").state_dict()
    Loader(file_config(home / "my pictures"), device="cpu", backend="pillow", state=state).close()  # the same folder


@pytest.mark.parametrize("url", ["~/shards/000.tar", "$DATA/shards", "${DATA}/shards/{000..000}.tar", "~/shards/*.tar",
                                 "file://$DATA/shards/000.tar", "@~/list.txt", "@$DATA/list.txt"])  # fmt: skip
def test_shards_and_lists_of_them_too(home: Path, url: str) -> None:
    (home / "list.txt").write_text("# shards\n${DATA}/shards/{000..000}.tar\n")
    assert ids("webdataset", url=url) == ["1"]


def test_nothing_of_a_servers_address_is_expanded(home: Path) -> None:
    with pytest.raises(SourceError, match=r"http://127\.0\.0\.1:9/~/\$DATA\.tar"):
        ids("webdataset", url="http://127.0.0.1:9/~/$DATA.tar")


def test_a_path_that_exists_means_itself(home: Path) -> None:
    absolute, here = file_config(home).absolute, os.getcwd()
    for name in ("~", "$DATA", "${DATA}"):
        Path(name).mkdir()
        assert absolute(name) == absolute(f"file://{here}/{name}") == f"{here}/{name}"
    for name in ("~x.tar", "$DATA.tar", "a%20b.tar"):
        Path(name).touch()
        assert list_addresses(name, absolute) == list_addresses(f"file://{here}/{name}", absolute) == [f"{here}/{name}"]


def test_the_home_of_a_user_by_name(home: Path) -> None:
    me = pwd.getpwuid(os.getuid())
    assert plain_path(f"~{me.pw_name}/x", "/") == f"{me.pw_dir}/x"
    assert plain_path("~no-such-user-here/x", "/") == "~no-such-user-here/x"


def test_other_settings_with_paths(home: Path) -> None:
    (home / "my pictures/bad.jpg").write_bytes(b"no picture")
    config = {"source_type": "file", "source_config": {"root_path": "my pictures"}, "base_folder": "~",
              "skipped_file": "$DATA/skipped.txt"}  # fmt: skip
    (home / "config.json").write_text(json.dumps(config))
    with Loader("~/config.json", device="cpu", backend="pillow") as loader:
        assert [name for batch in loader for name in batch.ids] == ["1.jpg"]
    assert json.loads((home / "skipped.txt").read_text())["id"] == "bad.jpg"
    with DataroomServer("~/my pictures", watch_interval_s=None) as server:
        assert (len(server), server.root) == (1, f"{home}/my pictures")


def test_errors_show_what_was_given_and_what_it_means(home: Path) -> None:
    here = os.getcwd()
    unset = "; $NOT_SET is not set in the environment"
    for root, path, more in [
        ("~/nowhere", f"cannot list {home}/nowhere", ""),
        ("$NOT_SET/x", f"cannot list {here}/$NOT_SET/x", unset),
        (f"file://{home}/no%20one", f"cannot list {home}/no one", ""),
        ("~/shards", f"no images under {home}/shards", ""),
    ]:
        with pytest.raises(SourceError) as caught:
            ids("file", root_path=root)
        assert str(caught.value).startswith(f"{path} (given as {root!r}{more}): ")
    (check, *_) = checks(file_config("$DATA"), "cpu", "pillow", 10)
    assert check.found == f"1 images in 1 folder below {home} (given as '$DATA')" + check.found.partition("')")[2]
    with pytest.raises(SourceError, match=f"{home}/shards/1\\*.tar"):
        ids("webdataset", url="~/shards/1*.tar")


def test_a_path_with_nul_is_refused(home: Path) -> None:
    (home / "list.txt").write_text(f"{home}/a.tar\n{home}/b\0.tar\n")
    for source_type, key, path in [
        ("file", "root_path", f"{home}/a\0b"),
        ("file", "root_path", f"file://{home}/a%00b"),
        ("webdataset", "url", f"{home}/\0/*.tar"),
        ("webdataset", "url", f"@{home}/list.txt"),
    ]:
        with pytest.raises(ConfigError, match=r"^'.*\\x00.*' is not a path: it contains the character NUL"):
            ids(source_type, **{key: path})


def test_a_home_that_nobody_knows_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", lambda _: {}["no such uid"])
    assert plain_path("~/x", "/nowhere") == "~/x"


def test_other_schemes_are_refused_as_before() -> None:
    with pytest.raises(ConfigError, match="begins with ftp://, which is not supported"):
        file_config("ftp://x/y")


@given(st.text(st.sampled_from("~$%2{}a/.:f ile"), max_size=12))
def test_any_text_is_some_path(text: str) -> None:
    path = plain_path(text, "/nowhere")
    assert isinstance(path, str)
    if not text.startswith(("~", "file://")) and "$" not in text:
        assert path == text == shown_with(text, text)
