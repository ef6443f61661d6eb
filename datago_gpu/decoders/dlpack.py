"""Changes the dtype that a DLPack capsule names: numpy and cupy export no bfloat16."""

from __future__ import annotations

import ctypes
from typing import Any

__all__ = ["mark_bfloat16"]

_BFLOAT = 4
"""DLPack's number for the kind of dtype that bfloat16 is: kDLBfloat."""
_CODE_AT = {b"dltensor": 20, b"dltensor_versioned": 52}
"""Name of a capsule -> where the structure that it points to holds the kind of the dtype, in bytes. The structures are
those of dlpack.h: DLManagedTensor, and DLManagedTensorVersioned since version 1.0."""

_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.restype, _is_valid.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]


def mark_bfloat16(capsule: Any) -> Any:
    """Returns the capsule of an array of uint16, which now says that the array holds bfloat16.

    The capsule belongs to nobody else yet, and its deleter does not look at the dtype.
    """
    name = next(name for name in _CODE_AT if _is_valid(capsule, name))
    ctypes.c_uint8.from_address(_get_pointer(capsule, name) + _CODE_AT[name]).value = _BFLOAT
    return capsule
