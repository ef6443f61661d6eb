"""datago_gpu: the image loader that feeds GPU training loops."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datago_gpu.arrays import Array
    from datago_gpu.batch import Batch, Sample
    from datago_gpu.config import (
        CacheConfig,
        DataroomSource,
        DecodeConfig,
        FileSource,
        HttpConfig,
        ImageConfig,
        LoaderConfig,
        TableSource,
        UserSource,
        WebDatasetSource,
    )
    from datago_gpu.errors import ConfigError, DatagoError, DecodeError, FeederError, SourceError, TooManyErrors
    from datago_gpu.loader import Loader
    from datago_gpu.loader.single_call import decode
    from datago_gpu.row import Row

__all__ = [
    "Array",
    "Batch",
    "CacheConfig",
    "ConfigError",
    "DatagoError",
    "DataroomSource",
    "DecodeConfig",
    "DecodeError",
    "FeederError",
    "FileSource",
    "HttpConfig",
    "ImageConfig",
    "Loader",
    "LoaderConfig",
    "Row",
    "Sample",
    "SourceError",
    "TableSource",
    "TooManyErrors",
    "UserSource",
    "WebDatasetSource",
    "decode",
]

__version__: str

_SETTINGS = (
    *("CacheConfig", "DataroomSource", "DecodeConfig", "FileSource", "HttpConfig"),
    *("ImageConfig", "LoaderConfig", "TableSource", "UserSource", "WebDatasetSource"),
)
_HOMES = {
    "Array": "arrays",
    "Batch": "batch",
    "Sample": "batch",
    "Loader": "loader",
    "Row": "row",
    "decode": "loader.single_call",
    **dict.fromkeys(_SETTINGS, "config"),
}


def __getattr__(name: str) -> Any:
    """Imports a name on first use: the feeder process imports this package too, but needs neither Loader nor numpy."""
    if name == "__version__":
        return _version()
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"datago_gpu.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def _version() -> str:
    """Returns the version of the installed package; of a checkout that is not installed, that of its pyproject.toml.

    "0" if there is neither.
    """
    from importlib import metadata

    try:
        return metadata.version("datago-gpu")
    except metadata.PackageNotFoundError:
        return _checkout_version()


def _checkout_version() -> str:
    import tomllib
    from pathlib import Path

    file = Path(__file__).parents[1] / "pyproject.toml"
    project = tomllib.loads(file.read_text()).get("project", {}) if file.is_file() else {}
    return str(project["version"]) if project.get("name") == "datago-gpu" else "0"
