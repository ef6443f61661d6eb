"""datago, Photoroom's loader in Rust. It hands out single pictures; they are stacked to batches here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from harness import Spec, main, stacked


def load(spec: Spec, source_type: str, source: dict[str, Any]) -> Iterator[Any]:
    os.environ["DATAGO_MAX_TASKS"] = str(spec.threads or 8)  # read when it is imported
    from datago import DatagoClient

    image = {
        "crop_and_resize": True,
        "default_image_size": spec.size,
        "downsampling_ratio": spec.size,
        "min_aspect_ratio": 1.0,
        "max_aspect_ratio": 1.0,
        "image_to_rgb8": True,
    }
    config = {
        "source_type": source_type,
        "source_config": source,
        "image_config": image,
        "limit": spec.count,
        "prefetch_buffer_size": 256,
        "samples_buffer_size": 256,
    }
    client = DatagoClient(json.dumps(config))
    client.start()
    yield from stacked(pictures(client, spec), spec.batch)
    client.stop()


def pictures(client: Any, spec: Spec) -> Iterator[Any]:
    for _ in range(spec.count):
        sample = client.get_sample()
        if sample is None:
            return
        if spec.mask:
            assert sample.masks[spec.mask].get_payload().to_numpy_array().size
        yield sample.image.get_payload().to_numpy_array()


def files(spec: Spec) -> Iterator[Any]:
    return load(spec, "file", {"root_path": spec.root, "random_sampling": False})


def shards(spec: Spec) -> Iterator[Any]:
    # It takes addresses with a range in braces; for others it asks an object store of Google's.
    stem, _, first = spec.urls[0].removesuffix(".tar").rpartition("-")
    last = spec.urls[-1].removesuffix(".tar").rpartition("-")[2]
    source = {"url": f"{stem}-{{{first}..{last}}}.tar", "concurrent_downloads": 8, "reference_image_type": "jpg"}
    return load(spec, "webdataset", source)


def dataroom(spec: Spec) -> Iterator[Any]:
    os.environ["DATAROOM_API_URL"], os.environ["DATAROOM_API_KEY"] = spec.api_url, spec.api_key
    masks = {"has_masks": spec.mask} if spec.mask else {}
    return load(spec, "db", {"sources": "", "page_size": 500, "require_images": True, **masks})


if __name__ == "__main__":
    os.environ.setdefault("DATAGO_MAX_TASKS", "8")
    main(
        {"numpy": "numpy", "datago": "datago"},
        {"files": files, "shards": shards, "dataroom": dataroom, "million": files},
    )
