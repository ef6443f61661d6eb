"""Runs a config with one of the two modules and describes every sample: what test_against_datago.py compares.

python script.py MODULE CONFIG OUT: writes JSON lines, and each payload's bytes in base64.
"""

from __future__ import annotations

import base64
import importlib
import json
import sys
from typing import Any


def attempt(call: Any) -> Any:
    try:
        return call()
    except BaseException as error:  # datago panics with one
        return f"raises {type(error).__name__}"


def picture_of(image: Any) -> dict[str, Any]:
    payload = image.get_payload()
    names = ("width", "height", "original_width", "original_height", "channels", "bit_depth", "is_encoded")
    described = {name: getattr(payload, name) for name in names}
    described["types"] = {name: type(getattr(payload, name)).__name__ for name in (*names, "data")}
    described["name"] = type(image).__name__
    described["data"] = base64.b64encode(payload.data).decode()
    described["pil"] = attempt(lambda: [image.mode, list(image.size), image().mode, payload.to_pil_image().mode])
    described["numpy"] = attempt(lambda: [image.to_numpy_array().dtype.str, list(payload.to_numpy_array().shape)])
    return described


def sample_of(sample: Any) -> dict[str, Any]:
    fields = ("id", "source", "attributes", "duplicate_state", "image", "masks", "additional_images", "latents",
              "coca_embedding", "tags")  # fmt: skip
    return {
        "types": {name: type(getattr(sample, name)).__name__ for name in fields},
        "fields": sorted(name for name in dir(sample) if not name.startswith("_")),
        "id": sample.id,
        "source": sample.source,
        "attributes": sample.attributes,
        "duplicate_state": sample.duplicate_state,
        "tags": sample.tags,
        "coca_embedding": sample.coca_embedding,
        "image": picture_of(sample.image),
        "masks": {name: picture_of(mask) for name, mask in sample.masks.items()},
        "additional_images": {name: picture_of(each) for name, each in sample.additional_images.items()},
        "latents": {
            name: [type(latent).__name__, type(latent.data).__name__, latent.len, bytes(latent.data).hex()]
            for name, latent in sample.latents.items()
        },
    }


def converted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: converted(each) for name, each in value.items()}
    if hasattr(value, "mode"):
        return [value.mode, list(value.size)]
    return value.hex() if isinstance(value, bytes) else value


def main(module: str, config: str, out: str) -> None:
    datago = importlib.import_module(module)
    client = datago.DatagoClient(config)
    described: dict[str, Any] = {"samples": [], "rules": []}
    while (sample := client.get_sample()) is not None:
        described["samples"].append(sample_of(sample))
    described["rules"] += [client.get_sample() is None, client.get_sample_auto_convert() is None, client.start()]
    first = attempt(client.get_sample_auto_convert)
    described["converted"] = sorted((name, type(value).__name__) for name, value in first.items()) if isinstance(
        first, dict) else first  # fmt: skip
    described["rules"] += [client.stop(), client.get_sample(), client.stop()]
    with open(out, "w") as file:
        json.dump(described, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
