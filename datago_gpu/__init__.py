"""datago_gpu: the image loader that feeds GPU training loops."""

from datago_gpu.batch import Batch, Sample
from datago_gpu.config import LoaderConfig
from datago_gpu.errors import ConfigError, DatagoError, DecodeError, FeederError, SourceError, TooManyErrors
from datago_gpu.loader import Loader

__all__ = [
    "Batch",
    "ConfigError",
    "DatagoError",
    "DecodeError",
    "FeederError",
    "Loader",
    "LoaderConfig",
    "Sample",
    "SourceError",
    "TooManyErrors",
]
