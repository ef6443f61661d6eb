"""datago_gpu: the image loader that feeds GPU training loops."""

from datago_gpu.errors import ConfigError, DatagoError, DecodeError, FeederError, SourceError, TooManyErrors

__all__ = ["ConfigError", "DatagoError", "DecodeError", "FeederError", "SourceError", "TooManyErrors"]
