"""What the settings of all sources have in common about object storage: addresses and endpoints."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["ENDPOINT_HINT", "STORE_SCHEMES", "endpoint_problem", "is_endpoint"]

STORE_SCHEMES = ("s3://", "gs://", "az://", "abfs://", "abfss://")
"""What addresses in object storage begin with."""

ENDPOINT_HINT = "http:// or https://, such as http://HOST:PORT"


def is_endpoint(name: str) -> bool:
    """Whether an option of object storage names the server to ask."""
    plain = name.lower().removeprefix("aws_").removeprefix("azure_").removeprefix("google_")
    return plain in ("endpoint", "endpoint_url", "storage_endpoint", "base_url")


def endpoint_problem(options: Mapping[str, str]) -> str | None:
    """What is wrong with the endpoint among the options of object storage, in words. Its value is not told."""
    for name, value in options.items():
        if is_endpoint(name) and not value.strip().lower().startswith(("http://", "https://")):
            return (f"source_config.storage_options: {name} must begin with {ENDPOINT_HINT}")  # fmt: skip
    return None
