"""The settings of a mix: what is refused, by which name, and what no message shows."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from datago_gpu.config import LoaderConfig, MixSource
from datago_gpu.errors import ConfigError

PHOTOS = {"name": "photos", "source_type": "file", "source_config": {"root_path": "/photos"}}
WEB = {"name": "web", "source_type": "webdataset", "source_config": {"url": "0.tar"}}
ROOM = {"name": "room", "source_type": "db", "source_config": {"api_url": "http://room/api/"}}


def load(*sources: Any, top: dict[str, Any] | None = None, **source: Any) -> LoaderConfig:
    given = {"sources": list(sources), **source}
    return LoaderConfig.load({"source_type": "mix", "source_config": given, **(top or {})})


def test_each_source_has_the_settings_that_it_would_have_alone() -> None:
    config = load({**PHOTOS, "image_config": {"flip": 0.5}}, {**WEB, "weight": 3}, rank=1, world_size=4)
    photos, web = config.by_source().values()
    assert (photos.source_type, photos.source_config.rank, photos.source_config.world_size) == ("file", 1, 4)
    assert (photos.image_config.flip, web.image_config.flip) == (0.5, 0.0)
    assert isinstance(config.source_config, MixSource)
    assert (config.source_config.weights, config.source_config.repeats) == ([1, 3], False)
    assert LoaderConfig.load(msgspec.json.encode(config)) == config
    cached = load(PHOTOS, WEB, top={"cache_config": {"path": "/cache", "size_gb": 1}}).by_source()
    assert [each.cache_config.is_on for each in cached.values()] == [False, True]  # a local folder needs no cache
    assert load(PHOTOS, {**PHOTOS, "name": "b", "repeat": 2}).source_config.weights == [1, 2]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "must have 1 to 100 sources, got 0"),
        ([5], r"sources\[0\] must be a dict or MixPart, got int"),
        ([PHOTOS, PHOTOS], "two sources have the name 'photos'"),
        ([{**PHOTOS, "name": "a b"}], r"sources\[0\] \(a b\): name must be of 1 to 100 letters"),
        ([{**PHOTOS, "wieght": 1}], r"sources\[0\] \(photos\): unknown key wieght; did you mean weight\?"),
        ([PHOTOS, {**WEB, "source_config": {"ulr": "x"}}], r"sources\[1\] \(web\): unknown key source_config.ulr"),
        ([{**PHOTOS, "weight": -1}], "weight must be a number from 0"),
        ([{**PHOTOS, "weight": 0}], "all weights are 0"),
        ([{**PHOTOS, "weight": 1, "repeat": 1}], "has both weight and repeat"),
        ([{**PHOTOS, "repeat": 1}, {**WEB, "weight": 1}], "'web' has a weight and 'photos' has repeat"),
        ([{**WEB, "repeat": 2}], "repeat needs a number of samples that is known before the first one"),
        ([{**PHOTOS, "repeat": 2}, WEB], "'web' has no repeat, and source_type 'webdataset' cannot have it"),
        ([{"name": "m", "source_type": "mix", "source_config": {}}], "is itself a mix"),
        ([{**PHOTOS, "source_config": {"root_path": "x", "rank": 0}}], "rank and world_size belong to all sources"),
        ([{**PHOTOS, "image_config": {"dtype": "float32"}}], "image_config.dtype is for all sources"),
        ([{**PHOTOS, "image_config": {"flop": 1}}], "unknown key image_config.flop; a source may have upscale, crop, "),
        ([{**PHOTOS, "image_config": {"flip": 2}}], "source 'photos' of the mix: image_config.flip must be"),
        ([PHOTOS, {**ROOM, "source_config": {"require_images": False}}], "require_images must be the same for all"),
        ([PHOTOS, {**ROOM, "source_config": {"require_embeddings": True}}], "require_embeddings must be the same"),
        (
            [{**ROOM, "source_config": {"has_latents": "x"}}, {**WEB, "source_config": {"url": "0.tar", "masks": "x"}}],
            "'x' is a latent of 'room' and a mask of 'web'",
        ),
        (
            [{**ROOM, "source_config": {"random_sampling": True, "random_method": "server"}}],
            "random_method 'server' draws samples without end",
        ),
        (
            [{"name": name, "source_type": "rows"} for name in ("one", "two")],
            "'one' and 'two' are both rows of the program's own",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_the_name_of_the_source(sources: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(*sources)


@pytest.mark.parametrize("setting", [{"where": "id == 'x'"}, {"min_short_edge": 5}, {"classes": ["a"]}])
def test_what_belongs_to_each_source_is_refused_for_the_mix(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(setting))} is not for a mix: set it in"):
        load(PHOTOS, **setting)


def test_lockstep_names_the_source_that_it_cannot_plan() -> None:
    image = {"lockstep": True, "image_config": {"crop_and_resize": True}}
    with pytest.raises(ConfigError, match=r"source 'room' of the mix: in lockstep, the rows of all sources .* index"):
        load({"name": "own", "source_type": "rows"}, ROOM, top=image)
    with pytest.raises(ConfigError, match="source 'photos' of the mix: lockstep plans by the sizes of the pictures"):
        load(PHOTOS, top=image)


def test_no_message_shows_the_secrets_of_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    key, token, secret = "0123456789abcdef" * 2, "token-of-the-shards", "secret-of-the-bucket"
    room = {**ROOM, "source_config": {"api_key": key}}
    web = {**WEB, "source_config": {"url": "http://web/0.tar", "auth_token": token}}
    photos = {**PHOTOS, "source_config": {"root_path": "s3://b/x", "storage_options": {"secret_access_key": secret}}}
    config = load(room, web, photos)
    shown = repr(config) + str(config.source_config.__rich_repr__()) + config.redacted(f"{key} {token} {secret}")
    assert not [each for each in (key, token, secret) if each in shown]
    assert "***" in shown
    monkeypatch.setenv("DATAROOM_API_KEY", key)
    assert key not in load(ROOM).redacted(key)
