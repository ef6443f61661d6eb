"""The trainer's side: `Loader`, and the thread behind it that receives, decodes and hands over."""

from datago_gpu.loader.loader import Loader

__all__ = ["Loader"]
