"""The worker's modules in memory: nothing of ours is a file in a container, nor a descriptor that a job could close.

Run by the loader, before anything can be imported.
"""

from __future__ import annotations

import marshal
import sys
import zlib
from _frozen_importlib import ModuleSpec  # `importlib` itself costs an import
from _frozen_importlib_external import MAGIC_NUMBER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType
    from typing import Any


class Archive:
    """Finds the modules that no folder has. modules: name to the file's name, whether a package, and the code.

    compiled: the code is this interpreter's byte code, packed, and source text otherwise.
    """

    def __init__(self, modules: Mapping[str, tuple[str, bool, bytes]], *, compiled: bool) -> None:
        self._modules = modules
        self._compiled = compiled

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        """See `importlib.abc.MetaPathFinder`."""
        if name not in self._modules:
            return None
        file, package, _ = self._modules[name]
        spec: Any = ModuleSpec(name, self, origin=file, is_package=package)  # type: ignore[arg-type]  # it is one in all but name
        spec.has_location = True
        return spec

    def create_module(self, spec: object) -> None:
        """See `importlib.abc.Loader`."""
        return

    def exec_module(self, module: ModuleType) -> None:
        """See `importlib.abc.Loader`."""
        file, _, code = self._modules[module.__name__]
        if self._compiled:
            exec(marshal.loads(zlib.decompress(code)), module.__dict__)  # noqa: S102, S302 - our own code
        else:
            exec(compile(code, file, "exec", 0, True), module.__dict__)  # noqa: S102 - the same


def install(magic: bytes, compiled: bytes, sources: bytes) -> None:
    """Let these modules be imported. magic: the number of the interpreter that `compiled` is for."""
    mine = magic == MAGIC_NUMBER
    modules = marshal.loads(compiled if mine else zlib.decompress(sources))  # noqa: S302 - the parent's own words
    sys.meta_path.append(Archive(modules, compiled=mine))
