"""The state of a stream: a Loader can begin from it, and refuses what is none, or belongs to another order."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu import ConfigError, DataroomSource, FileSource, Loader, LoaderConfig, WebDatasetSource
from datago_gpu.feeder.wire import Carried, Resume
from datago_gpu.loader.state import STATE_VERSION, resume_from, state_of
from datago_gpu.sources.reference import ListingDigest, Position
from tests.support.images import SHAPES, add_pictures, file_config

Config = dict[str, Any]
RESUME = Resume(Position(1, 8, "8:x"), [(3, 4)], 22)
IN_MIND = {
    "file": {"root_path": "/data/d40"},
    "webdataset": {"url": "/data/{0..3}.tar"},
    "db": {"sources": "b,a"},
}
KINDS: dict[str, type[msgspec.Struct]] = {"file": FileSource, "webdataset": WebDatasetSource, "db": DataroomSource}


def config_of(source_type: str = "file", *, seed: int = 0, **source: Any) -> LoaderConfig:
    given = {"source_type": source_type, "source_config": {**IN_MIND[source_type], **source}, "seed": seed, "limit": 99}
    return LoaderConfig.load(given)


def carried(state: dict[str, Any]) -> dict[str, Any]:
    """As it comes out of a checkpoint."""
    through: dict[str, Any] = json.loads(json.dumps(state))
    return through


def refusal(config: LoaderConfig, state: dict[str, Any]) -> str:
    """The error of a state that does not suit the settings, without the advice at its end."""
    with pytest.raises(ConfigError) as caught:
        resume_from(config, carried(state))
    return str(caught.value).partition(". Use the settings of the state")[0]


def test_a_loader_begins_from_a_state(tmp_path: Path) -> None:
    add_pictures(tmp_path, [SHAPES[number % 3] for number in range(14)])
    config = file_config(tmp_path)
    with Loader(config, device="cpu", backend="pillow") as loader:
        next(loader)
        state = loader.state_dict()
        rest = [batch.ids for batch in loader]
    with Loader(config, device="cpu", backend="pillow", state=state) as loader:
        assert loader.state_dict() == state
        assert [batch.ids for batch in loader] == rest


def test_a_state_says_only_what_makes_a_difference() -> None:
    assert state_of(config_of(), RESUME) == {
        "version": 4,
        "order": {
            "source_type": "file",
            "source_config": '{"root_path":"/data/d40"}',
            "rank": 0,
            "world_size": 1,
            "listing": "",
        },
        "resume": {
            "position": {"epoch": 1, "index": 8, "cursor": "8:x"},
            "done": [(3, 4)],
            "delivered": 22,
            "carried": "",
        },
    }
    shuffled = config_of("webdataset", seed=3, random_sampling=True, rank=1, world_size=2, auth_token="t", buffer_mb=64)
    assert state_of(shuffled, RESUME)["order"] == {
        "source_type": "webdataset",
        "source_config": '{"buffer_mb":64,"random_sampling":true,"url":"/data/{0..3}.tar"}',
        "seed": 3,
        "rank": 1,
        "world_size": 2,
        "listing": "",
    }


# Version 1, as the package wrote it on 2026-11-29.
FIRST_FILE = {"root_path": "/data/d40", "random_sampling": False}
FIRST_SHARDS = {
    "url": "/data/{0..3}.tar", "reference_image_type": "", "masks": "", "additional_images": "", "latents": "",
    "optional": "", "random_sampling": False, "shuffle_buffer": 1000, "interleave": 1, "buffer_mb": 256,
}  # fmt: skip
FIRST_ROOM = {
    "sources": "b,a", "sources_ne": "", "tags": "", "tags_all": "", "tags_ne": "", "tags_ne_all": "", "tags_empty": "",
    "datasets": "", "datasets_all": "", "datasets_ne": "", "datasets_ne_all": "", "datasets_empty": "",
    "has_attributes": "", "lacks_attributes": "", "has_masks": "", "lacks_masks": "", "has_latents": "",
    "lacks_latents": "", "optional_masks": "", "optional_latents": "", "attributes": "", "min_short_edge": 0,
    "max_short_edge": 0, "min_pixel_count": 0, "max_pixel_count": 0, "min_aspect_ratio": 0.0, "max_aspect_ratio": 0.0,
    "aspect_ratio_fraction": "", "duplicate_state": 0, "embedding_empty": "", "created_after": "",
    "created_before": "", "updated_after": "", "updated_before": "", "require_images": True,
    "require_embeddings": False, "random_sampling": False, "random_method": "shuffle", "shuffle_buffer": 10000,
}  # fmt: skip
FIRST = {"file": FIRST_FILE, "webdataset": FIRST_SHARDS, "db": FIRST_ROOM}


def first(source_type: str, *, without: str = "", seed: int = 0, **source: Any) -> dict[str, Any]:
    values = {name: value for name, value in {**FIRST[source_type], **source}.items() if name != without}
    return {
        "version": 1,
        "order": {"source_config": values, "seed": seed, "rank": 0, "world_size": 1},
        "resume": {"position": {"epoch": 1, "index": 8, "cursor": "8:x"}, "done": [[3, 4]], "delivered": 22},
    }


# Version 2, as the package wrote it on 2026-11-30.
SECOND: dict[str, Any] = {
    "version": 2,
    "order": {
        "source_type": "file",
        "source_config": {"root_path": "/data/d40"},
        "rank": 0,
        "world_size": 1,
        "listing": {"count": 14, "digest": "59f2297b5cc51b2a"},
    },
    "resume": {
        "position": {"epoch": 1, "index": 8, "cursor": "8:x"},
        "done": [[3, 4]],
        "delivered": 22,
        "carried": [{"start": {"epoch": 0, "index": 5, "cursor": "5:y"}, "indices": [5, 13], "listed": None}],
    },
}


def test_states_of_version_2_load() -> None:
    """And are written again in the form of today, which a checkpoint can fill in key by key."""
    listed, carried = ListingDigest(14, "59f2297b5cc51b2a"), [Carried(Position(0, 5, "5:y"), [5, 13])]
    full = msgspec.structs.replace(RESUME, listed=listed, carried=carried)
    assert resume_from(config_of(), SECOND) == full
    again = state_of(config_of(), full)
    assert resume_from(config_of(), json.loads(json.dumps(again))) == full
    assert flat(again).keys() == flat(state_of(config_of(), Resume())).keys()


def flat(state: dict[str, Any], name: str = "") -> dict[str, Any]:
    """As torch.distributed.checkpoint takes a state apart."""
    found: dict[str, Any] = {}
    for key, value in state.items():
        found |= flat(value, f"{name}{key}.") if isinstance(value, dict) else {f"{name}{key}": value}
    return found


@pytest.mark.parametrize("source_type", FIRST)
def test_states_of_version_1_load(source_type: str) -> None:
    assert resume_from(config_of(source_type), first(source_type)) == RESUME
    shuffled = first(source_type, random_sampling=True, seed=5)
    assert resume_from(config_of(source_type, random_sampling=True, seed=5), shuffled) == RESUME
    assert refusal(config_of(source_type, random_sampling=True), shuffled).endswith(": seed is 5 in the state, 0 here")


@pytest.mark.parametrize("source_type", FIRST)
def test_a_state_from_before_a_setting_existed_is_taken(source_type: str) -> None:
    for name in FIRST[source_type].keys() - IN_MIND[source_type].keys():
        assert resume_from(config_of(source_type), first(source_type, without=name)) == RESUME


def test_a_first_state_with_other_settings_is_refused_by_the_keys_that_differ() -> None:
    state = first("webdataset", interleave=4)
    assert refusal(config_of("webdataset", url="/other.tar"), state) == (
        "the state belongs to another order of samples: source_config.interleave is 4 in the state, 1 here; "
        "source_config.url is '/data/{0..3}.tar' in the state, '/other.tar' here"
    )


OTHER: dict[str, Any] = {
    "duplicate_state": 1,
    "embedding_empty": "true",
    "random_method": "server",
    "rank_split": "listed",
    "key_dots": "last",
    "storage_options": {"a": "b"},
    "api_url": "http://x/api/",
    "tags_empty": "true",
    "datasets_empty": "true",
    "optional": "m.png",
    "labels": "",
    "captions": "txt",
    "where": "x > 1",
    "min_short_edge": 3,
}
NO_MATTER = {
    *("api_url", "api_key", "auth_token", "storage_options", "page_size", "check_count", "concurrent_downloads"),
    *("require_images", "require_embeddings", "optional_masks", "optional_latents", "datago_form", "where"),
    *("label", "captions"),
}
ONLY_IN_A_SHUFFLE = {
    *("shuffle_buffer", "random_method", "rank_split", "buffer_mb"),
    *("reference_image_type", "masks", "additional_images", "latents", "optional"),
}


def another(field: Any, value: Any) -> Any:
    if field.name in OTHER:
        return OTHER[field.name]
    return not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else value + "x"


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("source_type", KINDS)
def test_each_setting_alone_matters_or_not(source_type: str, shuffled: bool) -> None:
    """What is refused names that setting, with both values, and no other."""
    base: Config = {"random_sampling": shuffled, "rank": 0, "world_size": 2}
    if source_type == "webdataset":
        base |= {"masks": "m.png", "concurrent_downloads": 9}
    base |= {"file": {"labels": "folder"}, "db": {"label": "x"}}.get(source_type, {})
    no_matter = NO_MATTER | ({"classes"} if source_type != "file" else set())
    config = config_of(source_type, **base)
    state = state_of(config, RESUME)
    for field in msgspec.structs.fields(KINDS[source_type]):
        if field.name in ("rank", "world_size"):
            continue
        value = getattr(config.source_config, field.name)
        changed = config_of(source_type, **{**base, field.name: another(field, value)})
        only_skips = field.name == "min_short_edge" and source_type != "db"  # a Dataroom filters by it
        if field.name in no_matter or only_skips or (field.name in ONLY_IN_A_SHUFFLE and not shuffled):
            assert resume_from(changed, carried(state)) == RESUME, field.name
            assert state_of(changed, RESUME) == state, field.name
        else:
            words = refusal(changed, state)
            assert words.startswith(f"the state belongs to another order of samples: source_config.{field.name} is ")
            assert words.count(" in the state, ") == 1
            if "," not in str(value):
                assert words.endswith(f" {getattr(changed.source_config, field.name)!r} here")


def test_the_seed_matters_in_a_shuffle_only() -> None:
    assert resume_from(config_of(seed=4), state_of(config_of(seed=5), RESUME)) == RESUME
    state = state_of(config_of(seed=5, random_sampling=True), RESUME)
    assert refusal(config_of(seed=4, random_sampling=True), state).endswith(": seed is 5 in the state, 4 here")


def test_the_way_of_splitting_matters_to_several_ranks_only() -> None:
    one, other = (config_of(random_sampling=True, rank_split=split) for split in ("listed", "shuffled"))
    assert resume_from(one, state_of(other, RESUME)) == RESUME


def test_the_refusal_of_a_state_says_what_to_do() -> None:
    state = state_of(config_of(rank=1, world_size=2), RESUME)
    with pytest.raises(ConfigError, match=r"without the state\. Only the state of a run in lockstep suits any number"):
        resume_from(config_of(), state)
    with pytest.raises(ConfigError, match=r" here\. Use the settings of the state, or start without the state$"):
        resume_from(config_of("db"), state)


def test_other_ranks_and_another_kind_of_source_are_named() -> None:
    state = state_of(config_of(rank=1, world_size=2), RESUME)
    assert refusal(config_of(), state) == (
        "the state belongs to another order of samples: rank is 1 in the state, 0 here; "
        "world_size is 2 in the state, 1 here"
    )
    assert refusal(config_of("db"), state) == (
        "the state belongs to another order of samples: source_type is 'file' in the state, 'db' here"
    )


@pytest.mark.parametrize("version", [1, STATE_VERSION])
@pytest.mark.parametrize(
    ("source_type", "spellings"),
    [
        (
            "file",
            [{"root_path": path} for path in ("/x/d40", "/x/d40/", "/x//d40", "d40", "d40/", "./d40", "../x/d40")],
        ),
        ("file", [{"root_path": path} for path in ("s3://bucket/photos", "s3://bucket/photos/")]),
        ("webdataset", [{"url": url} for url in ("/x/?.tar", "?.tar", "./?.tar", "file:///x/?.tar", "/x/../x/?.tar")]),
        ("webdataset", [{"url": url} for url in ("@list::/x/b.tar", "@/x/list::b.tar", " @list :: ./b.tar ")]),
        ("webdataset", [{"url": url} for url in ("s3://bucket/train", "s3://bucket/train/")]),
        ("webdataset", [{"url": f"https://{login}h/a.tar{query}"} for login, query in (("", ""), ("me:pw@", "?s=1"))]),
        ("db", [{"sources": names} for names in ("a,b", "b,a", "a, b", "b,,a,b", ["a", "b"])]),
        ("db", [{"duplicate_state": state} for state in (0, -1)]),
    ],
)
def test_spellings_of_the_same_place_are_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: int, source_type: str, spellings: list[Config]
) -> None:
    """Version 1 wrote what was given, but for passwords and queries."""
    for one in spellings:
        for other in spellings:
            if version == STATE_VERSION:
                state = state_of(based(config_of(source_type, **one)), RESUME)
            else:
                given = {name: ",".join(value) if isinstance(value, list) else value for name, value in one.items()}
                state = first(
                    source_type, **{name: str(value) if name == "url" else value for name, value in given.items()}
                )
                if "pw@" in str(given):
                    state["order"]["source_config"]["url"] = "https://h/a.tar"
            assert resume_from(based(config_of(source_type, **other)), carried(state)) == RESUME


def based(config: LoaderConfig) -> LoaderConfig:
    settings: LoaderConfig = msgspec.structs.replace(config, base_folder="/x")
    return settings


def test_a_secret_of_an_address_is_in_no_state() -> None:
    config = config_of("webdataset", url="https://me:pa55word@h/a.tar?sig=pa55word", auth_token="pa55word")
    assert "pa55word" not in json.dumps(state_of(config, RESUME))


def test_long_values_are_cut_in_a_message() -> None:
    urls = ["/data/" + "::".join(f"{name}{number}.tar" for number in range(100_000)) for name in "ab"]
    words = refusal(config_of("webdataset", url=urls[0]), state_of(config_of("webdataset", url=urls[1]), RESUME))
    assert len(words) < 1000


def test_defaults_that_states_rely_on_stay_as_they_are() -> None:
    """A state says nothing of what is as by default. Another default needs a new STATE_VERSION, which knows both."""
    defaults = {
        kind.__name__: {
            field.name: field.default
            for field in msgspec.structs.fields(kind)
            if field.name not in NO_MATTER and field.default not in ("", 0, False, None, msgspec.NODEFAULT)
        }
        for kind in KINDS.values()
    }
    assert defaults == {
        "FileSource": {"rank_split": "shuffled", "follow_links": True},
        "WebDatasetSource": {
            "key_dots": "first",
            "shuffle_buffer": 1000,
            "interleave": 1,
            "buffer_mb": 256,
            "rank_split": "shuffled",
        },
        "DataroomSource": {"random_method": "shuffle", "shuffle_buffer": 10000},
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": None}, "it has no source_config"),
        ({"order": {"source_config": [1]}}, "it has no source_config"),
        ({"order": {"source_config": {3: 4}}}, "it has no source_config"),
        ({"order": {"source_type": "tape", "source_config": {}}}, "source_type is 'tape' in the state, 'file' here"),
        ({"resume": 3}, "not the state of a Loader"),
        ({"resume": {"position": {"epoch": 1 << 70}}}, "not the state of a Loader"),
        ({"resume": {"position": {"index": -1}}}, "not the state of a Loader"),
        ({"resume": {"done": [[0, 1 << 70]]}}, "not the state of a Loader"),
        ({"resume": {"delivered": -4}}, "not the state of a Loader"),
        ({"version": 3}, "version 3, but this package reads versions 1, 2, 4"),
        ({"version": [2]}, r"version \[2\], but this package reads versions 1, 2, 4"),
    ],
)
def test_what_is_no_state_is_refused_before_anything_starts(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    state = state_of(file_config(tmp_path), RESUME) | change
    with pytest.raises(ConfigError, match=message):
        Loader(file_config(tmp_path), device="cpu", backend="pillow", state=state)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["source_config", "url", "sources"]), inner)
    ),
)


@given(ANYTHING, st.sampled_from(["file", "webdataset", "db"]))
def test_any_order_is_accepted_or_a_config_error(value: Any, source_type: str) -> None:
    config = config_of(source_type)
    good = state_of(config, RESUME)
    named = {name: {**good["order"], name: value} for name in ("source_type", "source_config", "rank", "seed")}
    fields = {
        name: {**good["order"], "source_config": {**json.loads(good["order"]["source_config"]), name: value}}
        for name in KINDS[source_type].__struct_fields__
    }
    for order in (value, *named.values(), *fields.values()):
        for version in (1, 2, 4):
            with suppress(ConfigError):
                assert resume_from(config, {**good, "version": version, "order": order}) == RESUME
