"""`@kernel`: Numba's njit as this house uses it, compiled at the first call and cached in a folder of the user's own.

Numba's cache files are pickles, so they live under the user's cache folder with mode 0700 and nowhere else; a folder
that belongs to somebody else, or holds a damaged file, costs a compilation, never an error, and a read-only one serves
what it holds. One stamp over all sources of this room keys every entry: editing any kernel or SIMD verb invalidates
what was built on it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit, types
from numba.core import caching

from ..environment import cache_folder


@cache
def source_stamp() -> str:
    """sha256 over every source file of this room."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def kernel_folder() -> Path | None:
    """The folder for compiled kernels, made private to the user, or None where that is impossible.

    It may be read-only, filled before by `minibi warmup`.
    """
    folder = cache_folder() / "kernels"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "getuid"):
            status = folder.stat()
            if status.st_uid != os.getuid():
                return None
            if status.st_mode & 0o077:
                folder.chmod(0o700)
    except OSError:
        return None
    return folder if os.access(folder, os.R_OK | os.X_OK) else None


class _Locator(caching._CacheLocator):
    def __init__(self, line: int):
        self._line = line
        self._py_file = __file__

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _Locator:
        return cls(py_func.__code__.co_firstlineno)

    def get_cache_path(self) -> str:
        return str(kernel_folder())

    def get_source_stamp(self) -> str:
        return source_stamp()

    def get_disambiguator(self) -> str:
        return str(self._line)


class _Impl(caching.CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012 - Numba's own spelling


class _File(caching.IndexDataCacheFile):
    """Machine code is written with its sha256 after it: a flipped bit in it would end the process, not the loading."""

    def _save_data(self, name: str, data: Any) -> None:
        code = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(code + hashlib.sha256(code).digest())

    def _load_data(self, name: str) -> Any:
        whole = Path(self._data_path(name)).read_bytes()
        if hashlib.sha256(whole[:-32]).digest() != whole[-32:]:
            raise ValueError("damaged")
        return super()._load_data(name)  # reads up to where the checksum begins


class _Cache(caching.FunctionCache):
    _impl_class = _Impl

    def __init__(self, function: Callable[..., Any]):
        super().__init__(function)
        self._cache_file = _File(self._cache_path, self._impl.filename_base, source_stamp())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a damaged or foreign file: compile anew, and begin a new index
            with suppress(Exception):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception:  # a full or read-only disk: keep what was compiled in memory
            return


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` for arrays: no GIL, no bounds checks, IEEE division, LLVM not free to reorder sums."""
    dispatcher = njit(nogil=True, boundscheck=False, error_model="numpy")(function)
    ask = dispatcher.get_call_template

    def of_no_value(args: Any, kws: dict[str, Any]) -> Any:
        """Called with a number that stands in the caller's source, a kernel would be compiled for that very number."""
        return ask([types.unliteral(x) for x in args], {name: types.unliteral(x) for name, x in kws.items()})

    dispatcher.get_call_template = of_no_value
    if kernel_folder() is not None:
        dispatcher._cache = _Cache(dispatcher.py_func)
    return dispatcher


inline = njit(nogil=True, boundscheck=False, error_model="numpy", inline="always")
