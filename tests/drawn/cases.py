"""What hypothesis draws for the model test: a data set, settings, a way to read, and a script."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from datago_gpu import LoaderConfig
from tests.drawn.worlds import BREAKS, WORLDS, Broken, World
from tests.model import Order, files, rooms, shards

__all__ = ["ALL", "Case", "Step", "cases", "order_of", "settled"]

ALL = 10**6
"""Batches or samples: more than there are."""

Step = tuple[str, int]
"""A word, and how often."""

Settings = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """world: which data set. config: less what only the machine knows. way: how it is read. script: what is done.

    over_http: where shards come from. broken: the shard that breaks on its way then, if any.
    """

    world: str
    config: Settings
    way: str
    script: list[Step]
    over_http: bool = False
    broken: Broken | None = None


PIECES = ["", "mask", "image_other", "mask,image_other"]
STEPS = ["batches", "samples", "go on in another loader", "load the state", "kill the feeder"]
SCRIPTS = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 4)), max_size=5)
ENDS = st.sampled_from([("batches", ALL), ("samples", ALL), ("close", 0)])
WAYS = ["Loader", "Loader", "Loader", "LoaderDataset", "DatagoClient"]


@st.composite
def folders(draw: st.DrawFn) -> Settings:
    return {"rank_split": draw(st.sampled_from(["shuffled", "listed"]))}


@st.composite
def datarooms(draw: st.DrawFn) -> Settings:
    wanted, optional = draw(st.sampled_from(PIECES[:2])), draw(st.sampled_from(PIECES[:2]))
    return {
        "page_size": draw(st.sampled_from([1, 7, 500])),
        "shuffle_buffer": draw(st.sampled_from([1, 3, 1000])),
        "require_embeddings": draw(st.booleans()),
        "has_masks": wanted,
        "optional_masks": optional,
        "optional_latents": draw(st.sampled_from(["", "image_other"])),
    }


@st.composite
def sets_of_shards(draw: st.DrawFn) -> Settings:
    interleave = draw(st.sampled_from([1, 2, 3, 8]))
    wanted = draw(st.sampled_from(PIECES))
    return {
        "rank_split": draw(st.sampled_from(["shuffled", "listed"])),
        "shuffle_buffer": draw(st.sampled_from([1, 3, 1000])),
        "interleave": interleave,
        "concurrent_downloads": draw(st.sampled_from([interleave, 8])),
        "buffer_mb": draw(st.sampled_from([1, 256])),
        "masks": "mask" if "mask" in wanted else "",
        "additional_images": "image_other" if "image_other" in wanted else "",
        "optional": draw(st.sampled_from([wanted, wanted, "", "mask" if "mask" in wanted else ""])),
    }


SOURCES = {"file": folders(), "db": datarooms(), "webdataset": sets_of_shards()}


@st.composite
def configs(draw: st.DrawFn) -> Settings:
    """Settings whose bounds are as small as they can be, or as usual."""
    kind = draw(st.sampled_from(sorted(SOURCES)))
    world_size = draw(st.sampled_from([1, 1, 2, 3, 5, 7]))
    source = draw(SOURCES[kind]) | {
        "rank": draw(st.integers(0, world_size - 1)),
        "world_size": world_size,
        "random_sampling": draw(st.booleans()),
    }
    limit = draw(st.none() | st.integers(1, 60))
    small = draw(st.booleans())
    # A share counts the samples of a lost shard, of which nobody is told how many there are.
    budgets = [None, None, None, 0, 2, 12, *([0.0, 0.2, 0.5] if kind != "webdataset" else [])]
    return {
        "source_type": kind,
        "source_config": source,
        "image_config": {
            "crop_and_resize": draw(st.booleans()),
            "mixed_buckets": draw(st.booleans()),
            "default_image_size": 64,
            "downsampling_ratio": 16,
        },
        "http_config": {
            "max_payload_mb": 1,
            "concurrent_downloads": draw(st.sampled_from([1, 3, 64])),
            "download_processes": draw(st.sampled_from([0, 0, 1])) if kind == "db" else 0,
            "max_tries": 2,
            "max_backoff_s": 0.01,
        },
        "decode_config": {"threads": draw(st.sampled_from([1, 2])), "prefetch": draw(st.sampled_from([1, 2]))},
        "batch_size": draw(st.sampled_from([1, 2, 3, 5, 16])),
        "limit": limit,
        "epochs": draw(st.sampled_from([1, 2, 3] if limit is None else [1, 2, 3, None])),
        "seed": draw(st.sampled_from([0, 1, 2**63 - 1])),
        "drop_last": draw(st.booleans()),
        "ordered": draw(st.sampled_from([True, True, False])),
        "samples_buffer_size": draw(st.sampled_from([1, 5, 64])),
        "samples_buffer_mb": draw(st.sampled_from([1, 4096])),
        "prefetch_buffer_size": draw(st.sampled_from([1, 2, 7, 256])),
        "prefetch_memory_mb": 1 if small else 512,
        "bucket_memory_mb": draw(st.sampled_from([1, 1024])),
        "arena_mb": 2 if small else 512,
        "max_failures": draw(st.sampled_from(budgets)),
        "max_refused_in_a_row": draw(st.sampled_from([64, 64, 64, None, 1, 3, 8])),
    }


@st.composite
def cases(draw: st.DrawFn) -> Case:
    world = draw(st.sampled_from(["mixed", "mixed", "mixed", "good", "gone", "bad", "one"]))
    config, way = draw(configs()), draw(st.sampled_from(WAYS))
    over_http, broken = False, None
    if config["source_type"] == "webdataset":
        over_http = draw(st.booleans())
    if over_http and draw(st.booleans()):
        broken = draw(st.integers(0, len(WORLDS[world].shards) - 1)), draw(st.sampled_from(sorted(BREAKS)))
    script = [*draw(SCRIPTS), draw(ENDS)]
    if config["source_type"] == "webdataset" and not {"go on in another loader", "load the state"}.isdisjoint(
        word for word, _ in script
    ):
        config["max_failures"] = None  # a shard may be lost once more: nobody promises whether it is read again
    return Case(world, suited(config, way), way, script, over_http, broken)


def suited(config: Settings, way: str) -> Settings:
    """The settings as this way to read allows, or sets, them."""
    if way == "LoaderDataset":
        return config | {"epochs": None if config["epochs"] is None else 1}
    if way == "DatagoClient":
        limit = config["limit"] or 60
        small_batch = min(8, limit, config["samples_buffer_size"])
        image = config["image_config"] | {"mixed_buckets": True}
        more = {"limit": limit, "epochs": 1, "batch_size": small_batch, "image_config": image}
        return config | more | {"seed": config["seed"] // 2}
    return config


def settled(case: Case, folder: Path) -> LoaderConfig:
    """The settings, with the place of the data set."""
    world, source = WORLDS[case.world], dict(case.config["source_config"])
    if case.config["source_type"] == "file":
        source["root_path"] = str(world.root / "files")
    elif case.config["source_type"] == "db":
        source |= {"api_url": world.room.url, "api_key": world.room.key}
    elif case.over_http:
        source["url"] = "::".join(world.shard_addresses(case.broken))
    else:
        source["url"] = str(world.root / "shards")
    listed = folder / "skipped.jsonl"
    listed.touch()
    return LoaderConfig.load({**case.config, "source_config": source, "skipped_file": str(listed)})


def order_of(config: LoaderConfig, world: World, broken: Broken | None) -> Order:
    """The order that the model has for these settings."""
    if config.source_type == "file":
        return files(config, world.as_files())
    if config.source_type == "webdataset":
        return shards(config, world.as_shards(broken))
    return rooms(config, world.as_room())
