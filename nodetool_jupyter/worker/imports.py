"""Do something to a module right after it is imported, without importing it."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType
    from typing import Any

    Hook = Callable[[Any], None]

_hooks: dict[str, list[Hook]] = {}


def when_imported(name: str, hook: Hook) -> None:
    """Call `hook(module)` once: now if the module is there, else when somebody imports it."""
    module = sys.modules.get(name)
    if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
        hook(module)
        return
    _hooks.setdefault(name, []).append(hook)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def apply_missed() -> None:
    """Call the hooks of modules that came in some other way, and put the finder first again."""
    finder = next((finder for finder in sys.meta_path if isinstance(finder, _Finder)), None)
    if finder is not None and sys.meta_path[0] is not finder:
        sys.meta_path.remove(finder)
        sys.meta_path.insert(0, finder)
    for name in [name for name in _hooks if name in sys.modules]:
        _run(name, sys.modules[name])


def _run(name: str, module: ModuleType) -> None:
    for hook in _hooks.pop(name, ()):
        hook(module)


class _Finder:
    """Finds nothing itself; wraps the loader that the others find for a module with a hook."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        if name not in _hooks:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader)  # type: ignore[assignment]  # it stands in for one
                return spec
        return None


class _Loader:
    """A loader that calls the hooks when the module has run, and is gone from it by then."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def create_module(self, spec: Any) -> Any:
        return self._inner.create_module(spec) if hasattr(self._inner, "create_module") else None

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self._inner
        self._inner.exec_module(module)
        _run(module.__name__, module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
