"""Memory that ends where the data ends, and is out of bounds when the call is over.

Behind the bytes of a `bytes` object lies a NUL of the object's own, so that AddressSanitizer does not see a codec that
reads one byte too far. Here the data lies at the very end of a malloc'ed block, which is poisoned between the calls:
reading over its end, or keeping a pointer into it, is an error that the sanitizer reports.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")

SIZE = 1 << 17

_process: Any = ctypes.CDLL(None)
_process.malloc.restype = ctypes.c_void_p
_process.malloc.argtypes = [ctypes.c_size_t]
_block = _process.malloc(SIZE)
_bytes = memoryview((ctypes.c_ubyte * SIZE).from_address(_block)).cast("B")

try:
    _poison, _unpoison = _process.__asan_poison_memory_region, _process.__asan_unpoison_memory_region
except AttributeError:  # not under the sanitizer
    _poison = _unpoison = None
else:
    for _function in (_poison, _unpoison):
        _function.restype = None
        _function.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    _poison(_block, SIZE)


def call(function: Callable[[memoryview], Result], data: bytes) -> Result:
    """`function` of a view of exactly these bytes; nothing may look at them when it has returned."""
    size = len(data)
    start = SIZE - size
    if _unpoison is None:
        with _bytes[start:] as view:
            view[:] = data
            return function(view)
    _unpoison(_block + start, size)
    try:
        with _bytes[start:] as view:
            view[:] = data
            return function(view)
    finally:
        _poison(_block + start, size)
