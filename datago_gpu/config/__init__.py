"""Settings: what a Loader is told, checked when it is made."""

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
