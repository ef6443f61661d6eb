"""Turns batches of encoded images into pixels.

The name of this package is also that of a public function: `datago_gpu.decode(payloads, ...)`. Python sets the
attribute `decode` of `datago_gpu` to this package as soon as one of its modules is imported. So one can call the
package.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Calls `datago_gpu.loader.single_call.decode`, which is where the arguments are described."""
        return import_module("datago_gpu.loader.single_call").decode(*arguments, **named)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """Lets the function be sent to other processes, as Ray and multiprocessing do."""
        return import_module, (self.__name__,)


sys.modules[__name__].__class__ = _Callable
