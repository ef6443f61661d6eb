"""The trainer's side: `Loader` and its thread, which receives encoded batches, decodes them and queues the results."""

from datago_gpu.loader.loader import Loader

__all__ = ["Loader"]
