"""What is drawn for the model test: a data set, settings, a way to read, and a script.

Each example is drawn from numbers of its own. Strategies of hypothesis would vary the ones before, a little each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from datago_gpu import LoaderConfig
from tests.drawn.worlds import BREAKS, TABLES, WORLDS, Broken, World
from tests.model import Item, Lost, Order, as_sized, chosen_by_where, files, leaves_out, mixed, rooms, shards

__all__ = ["ALL", "Case", "Step", "drawn_case", "order_of", "settled"]

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
OFTEN_MIXED = ["mixed", "mixed", "mixed", "good", "gone", "bad", "one"]
OFTEN_LOADER = ["Loader", "Loader", "Loader", "LoaderDataset", "DatagoClient"]
TAKING = ["batches", "samples"]
CACHE_SIZES = [10 * 4096 / 2**30, 1]
"""Of a few pictures, and of everything."""
BETWEEN = ["go on in another loader", "load the state", "kill the feeder"]
GOING_ON = set(BETWEEN[:2])


def drawn_case(random: Random) -> Case:
    world, way = random.choice(OFTEN_MIXED), random.choice(OFTEN_LOADER)
    config, script = drawn_config(random), drawn_script(random)
    if config["source_type"] == "mix" and way == "DatagoClient":
        way = "Loader"
    over_http, broken = False, None
    if "webdataset" in kinds_of(config):
        over_http = random.random() < 0.5
        if not GOING_ON.isdisjoint(word for word, _ in script):
            config["max_failures"] = None  # nobody promises whether a lost shard is lost again
    if over_http and random.random() < 0.7:
        broken = random.randrange(len(WORLDS[world].shards)), random.choice(sorted(BREAKS))
    return Case(world, suited(config, way), way, script, over_http, broken)


def drawn_script(random: Random) -> list[Step]:
    """Something is taken, something is done, and so on. The end is that of the stream, or a close in the middle."""
    script: list[Step] = []
    for _ in range(random.choice([0, 0, 1, 2, 3])):
        script.append((random.choice(TAKING), random.choice([0, 1, 1, 2, 3, 4])))
        script.append((random.choice(BETWEEN), random.choice([0, 1])))
    close: list[Step] = [("batches", random.randint(0, 3)), ("close", 0)]
    return script + random.choice([[("batches", ALL)], [("samples", ALL)], close])


def drawn_folder(random: Random) -> Settings:
    return {
        "rank_split": random.choice(["shuffled", "listed"]),
        "labels": random.choice(["", "folder"]),
        "captions": random.choice(["", "json"]),
    }


def drawn_room(random: Random) -> Settings:
    return {
        "page_size": random.choice([1, 7, 500]),
        "shuffle_buffer": random.choice([1, 3, 1000]),
        "require_embeddings": random.choice([True, False]),
        "has_masks": random.choice(["", "", "mask"]),
        "optional_masks": random.choice(["", "mask"]),
        "has_latents": random.choice(["", "", "image_other"]),
        "optional_latents": random.choice(["", "image_other"]),
    }


def drawn_shards(random: Random) -> Settings:
    interleave, wanted = random.choice([1, 2, 3, 8]), random.choice(PIECES)
    return {
        "rank_split": random.choice(["shuffled", "listed"]),
        "shuffle_buffer": random.choice([1, 3, 1000]),
        "interleave": interleave,
        "concurrent_downloads": random.choice([interleave, 8]),
        "buffer_mb": random.choice([1, 256]),
        "masks": "mask" if "mask" in wanted else "",
        "additional_images": "image_other" if "image_other" in wanted else "",
        "optional": random.choice([wanted, wanted, "", "mask" if "mask" in wanted else ""]),
    }


def drawn_table(random: Random) -> Settings:
    return {"path": random.choice(TABLES), "attributes": "", "rank_split": random.choice(["shuffled", "listed"])}


def drawn_where(random: Random, kind: str) -> str:
    """An expression over what each sample has; of shards and a Dataroom also over what only some have."""
    name = "path" if kind == "table" else "id"
    digit = random.randrange(10)
    texts = [f"'{digit}' in {name}", f"'{digit}' not in {name}", f"{name} >= 'c'", f"not {name} < 'p1'"]
    if kind in ("db", "webdataset"):
        texts += [f"id > 'p' and note is null or '{digit}' in id", f"not '{digit}' in note or 'p{digit}' in id"]
    return random.choice(texts)


SOURCES = {"file": drawn_folder, "db": drawn_room, "webdataset": drawn_shards, "table": drawn_table}


def drawn_mix(random: Random) -> Settings:
    """Two or three sources of any kind, by weights, or tables and folders by numbers of passes."""
    repeats = random.random() < 0.3
    kinds = random.choices(["file", "table"] if repeats else sorted(SOURCES), k=random.choice([2, 2, 3]))
    sources = []
    for number, kind in enumerate(kinds):
        source = SOURCES[kind](random) | {"random_sampling": random.choice([True, False])}
        source |= {"require_embeddings": False} if kind == "db" else {}
        share = {"repeat": random.choice([1, 2])} if repeats else {"weight": random.choice([1, 1, 0.3, 3, 7])}
        sources.append({"name": f"{kind}-{number}", "source_type": kind, "source_config": source, **share})
    return {"sources": sources, "stop": random.choice(["first", "all"])}


def kinds_of(config: Settings) -> list[str]:
    """The source types of a source, or of those of a mix."""
    if config["source_type"] != "mix":
        return [config["source_type"]]
    return [part["source_type"] for part in config["source_config"]["sources"]]


BUCKETS: list[Settings] = [
    {"default_image_size": 64},
    {"resolutions": [64, 32]},
    {"resolutions": [32, 256, 128]},
    {"buckets": [[32, 32], [16, 48], [48, 16], [256, 256]]},
]


def drawn_buckets(random: Random) -> tuple[Settings, Settings]:
    """image_config, and how large batches are."""
    image: Settings = {
        "downsampling_ratio": 16,
        "mixed_buckets": random.choice([True, False]),
        "flip": random.choice([0.0, 0.5, 1.0]),
    }
    batch: Settings = {"batch_size": random.choice([1, 2, 3, 5, 16])}
    if random.random() < 0.4:
        return image | {"crop_and_resize": False}, batch
    image |= {"crop_and_resize": True, "crop": random.choice(["centre", "random", "random_resized"])}
    if random.random() < 0.4:
        return image | {"default_image_size": 64}, batch
    image |= {"upscale": image["crop"] == "random_resized" or random.choice([True, False])} | random.choice(BUCKETS)
    if not image["mixed_buckets"] and random.random() < 0.5:
        batch = {"batch_pixels": random.choice([1, 3 * 64 * 64, 3 * 256 * 256])}
    return image, batch


VIEWS: Settings = {
    "crop_and_resize": True,
    "mixed_buckets": False,
    "views": [
        {"flip": 0.5},
        {"crop": "random"},
        {"default_image_size": 32, "crop": "random_resized", "crop_scale": [0.05, 0.3], "flip": 0.5},
    ],
}


def drawn_config(random: Random) -> Settings:
    """Settings whose bounds are as small as they can be, or as usual."""
    kind = random.choice([*sorted(SOURCES), "mix"])
    world_size = random.choice([1, 1, 2, 3, 5, 7] if kind != "mix" else [1, 1, 1, 2, 3])
    source: Settings = {"rank": random.randrange(world_size), "world_size": world_size}
    if kind == "mix":
        source |= drawn_mix(random)
    else:
        source |= SOURCES[kind](random) | {
            "random_sampling": random.choice([True, False]),
            "where": drawn_where(random, kind) if random.random() < 0.4 else "",
            "min_short_edge": random.choice([31, 41]) if random.random() < 0.2 else 0,
        }
    has_shards = "webdataset" in kinds_of({"source_type": kind, "source_config": source})
    image, batch = drawn_buckets(random)
    may_have_views = image["crop_and_resize"] and image.get("upscale", True)
    limit = random.choice([None, random.randint(1, 60)])
    small = random.choice([True, False])
    # A share counts the samples of a lost shard, of which nobody is told how many there are.
    budgets = [0, 2, 12, *([0.0, 0.2, 0.5] if not has_shards else [])]
    return {
        "source_type": kind,
        "source_config": source,
        "image_config": image | (VIEWS if may_have_views and random.random() < 0.4 else {}),
        "http_config": {
            "max_payload_mb": 1,
            "concurrent_downloads": random.choice([1, 3, 64]),
            "download_processes": random.choice([0, 0, 1]) if kind == "db" else 0,
            "max_tries": 2,
            "max_backoff_s": 0.01,
        },
        "decode_config": {
            "threads": random.choice([1, 2]),
            "processes": random.choice([0, 1, 2]),
            "prefetch": random.choice([1, 2]),
        },
        **batch,
        "limit": limit,
        "epochs": random.choice([1, 2, 3] if limit is None else [1, 2, 3, None]),
        "seed": random.choice([0, 1, 2**63 - 1]),
        "drop_last": random.random() < 0.3,
        "ordered": random.random() < 0.6 or kind == "mix",  # names come several times there
        "samples_buffer_size": random.choice([1, 5, 64]),
        "samples_buffer_mb": random.choice([1, 4096]),
        "prefetch_buffer_size": random.choice([1, 2, 7, 256]),
        "prefetch_memory_mb": 1 if small else 512,
        "bucket_memory_mb": random.choice([1, 1024]),
        "arena_mb": 2 if small else 512,
        "max_failures": random.choice(budgets) if random.random() < 0.25 else None,
        "max_refused_in_a_row": random.choice([None, 1, 3, 8]) if random.random() < 0.3 else 64,
        # All examples of a data set share the folder: what an earlier one has kept is there.
        "cache_config": {"size_gb": random.choice(CACHE_SIZES)} if kind != "file" and random.random() < 0.4 else {},
    }


def suited(config: Settings, way: str) -> Settings:
    """The settings as this way to read allows, or sets, them."""
    if way == "LoaderDataset":
        return config | {"epochs": None if config["epochs"] is None else 1}
    if way == "DatagoClient":
        limit = config["limit"] or 60
        small_batch = min(8, limit, config["samples_buffer_size"])
        image = config["image_config"] | {"mixed_buckets": True, "views": None}
        more = {"limit": limit, "epochs": 1, "batch_size": small_batch, "batch_pixels": None, "image_config": image}
        return config | more | {"seed": config["seed"] // 2}
    return config


def settled(case: Case, folder: Path) -> LoaderConfig:
    """The settings, with the place of the data set."""
    source = dict(case.config["source_config"])
    if case.config["source_type"] == "mix":
        source["sources"] = [
            {**part, "source_config": _placed(case, part["source_type"], part["source_config"])}
            for part in source["sources"]
        ]
    else:
        source = _placed(case, case.config["source_type"], source)
    listed = folder / "skipped.jsonl"
    listed.touch()
    cache = case.config["cache_config"]
    cache = cache | {"path": str(WORLDS[case.world].root / "cache")} if cache else {}
    return LoaderConfig.load(
        {**case.config, "source_config": source, "skipped_file": str(listed), "cache_config": cache}
    )


def _placed(case: Case, kind: str, source: Settings) -> Settings:
    """The settings of a source, with the place of the data set."""
    world = WORLDS[case.world]
    if kind == "file":
        labelled = any(item.label is not None for item in world.as_files())  # no image in a class is an error
        return source | {"root_path": str(world.root / "files")} | ({} if labelled else {"labels": ""})
    if kind == "table":
        return source | {"path": str(world.root / "tables" / source["path"]), "root": str(world.root / "files")}
    if kind == "db":
        least = source.get("min_short_edge", 0)
        none = all(min(item.shape) < least for item in world.as_room())  # that no image passes the filters is an error
        return source | {"api_url": world.room.url, "api_key": world.room.key, "min_short_edge": 0 if none else least}
    shards = "::".join(world.shard_addresses(case.broken)) if case.over_http else str(world.root / "shards")
    return source | {"url": shards}


def order_of(config: LoaderConfig, world: World, broken: Broken | None) -> Order:
    """The order that the model has for these settings."""
    if config.source_type == "mix":
        return mixed(config, {name: order_of(each, world, broken) for name, each in config.by_source().items()})
    all_ranks = _listing_of(config.with_source(rank=0, world_size=1), world, broken)
    return chosen_by_where(config, _listing_of(config, world, broken), all_ranks)


def _listing_of(config: LoaderConfig, world: World, broken: Broken | None) -> Order:
    def sized(entry: Item) -> Item:
        return as_sized(config, entry, listed=config.source_type == "db")

    if config.source_type in ("file", "table"):
        return files(config, [sized(item) for item in world.as_files()])
    if config.source_type == "webdataset":
        return shards(config, [[entry if isinstance(entry, Lost) else sized(entry) for entry in shard]
                               for shard in world.as_shards(broken)])  # fmt: skip
    return rooms(config, [sized(item) for item in world.as_room() if not leaves_out(config, item)])
