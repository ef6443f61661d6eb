"""Settings: what a Loader is told, checked when it is made."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datago_gpu.config.cache_config import CacheConfig
    from datago_gpu.config.dataroom import DataroomSource
    from datago_gpu.config.decode_config import DecodeConfig
    from datago_gpu.config.http_config import HttpConfig
    from datago_gpu.config.image_config import ImageConfig
    from datago_gpu.config.image_files import FileSource
    from datago_gpu.config.loader_config import SOURCES, ConfigLike, LoaderConfig
    from datago_gpu.config.mix import MixPart, MixSource
    from datago_gpu.config.shards import WebDatasetSource
    from datago_gpu.config.table import TableSource
    from datago_gpu.config.user_source import UserSource
    from datago_gpu.config.view_config import ViewConfig

__all__ = [
    "SOURCES",
    "CacheConfig",
    "ConfigLike",
    "DataroomSource",
    "DecodeConfig",
    "FileSource",
    "HttpConfig",
    "ImageConfig",
    "LoaderConfig",
    "MixPart",
    "MixSource",
    "TableSource",
    "UserSource",
    "ViewConfig",
    "WebDatasetSource",
]

_HOMES = {
    "CacheConfig": "cache_config",
    "ConfigLike": "loader_config",
    "DataroomSource": "dataroom",
    "DecodeConfig": "decode_config",
    "FileSource": "image_files",
    "HttpConfig": "http_config",
    "ImageConfig": "image_config",
    "LoaderConfig": "loader_config",
    "MixPart": "mix",
    "MixSource": "mix",
    "SOURCES": "loader_config",
    "TableSource": "table",
    "UserSource": "user_source",
    "ViewConfig": "view_config",
    "WebDatasetSource": "shards",
}


def __getattr__(name: str) -> Any:
    """Imports a name on first use: decode processes need two of these only, and start sooner without the others."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
