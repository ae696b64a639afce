"""IPython's shell inside a worker, made when something asks for it: magics, `!cmd`, formatters, `get_ipython()`."""

from __future__ import annotations

import builtins
import sys

from .current import current
from .display import by_methods, show, use_shell
from .imports import when_imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_shell: Any = None
_making = False


def exists() -> bool:
    """Whether the shell was made already."""
    return _shell is not None


def install() -> None:
    """Make `get_ipython` and `display` known to the cell, and our shell to libraries that ask IPython for one."""
    builtins.get_ipython = get_ipython  # type: ignore[attr-defined]  # IPython does the same
    builtins.display = display  # type: ignore[attr-defined]  # IPython does the same
    use_shell(find_shell, exists)
    when_imported("IPython.core.interactiveshell", _adopt)


def _adopt(module: Any) -> None:
    """Let `InteractiveShell.instance()` make our shell, and `initialized()` say that there is one."""
    base = module.InteractiveShell
    make, made = base.instance.__func__, base.initialized.__func__

    def instance(cls: Any, *args: Any, **kwargs: Any) -> Any:
        return find_shell() if cls is base and not _making else make(cls, *args, **kwargs)

    def initialized(cls: Any) -> bool:
        return True if cls is base and not _making else bool(made(cls))

    base.instance = classmethod(instance)
    base.initialized = classmethod(initialized)


def find_shell() -> Any:
    """The shell; `None` where IPython can't be imported."""
    global _shell, _making
    if _shell is None and not _making:
        try:
            import IPython.core.interactiveshell  # noqa: F401 - its absence is the answer
        except ImportError:
            return None
        _making = True
        try:
            from .job_shell import make_shell

            _shell = make_shell()
        finally:
            _making = False
    return _shell


def get_ipython() -> Any:
    """IPython's shell, as in a notebook."""
    shell = find_shell()
    if shell is None:
        raise RuntimeError(
            f"This cell uses a magic, !command or get_ipython(), and IPython is not installed for {sys.executable}. "
            "Install it there, or use plain Python (for !command: subprocess.run)."
        )
    return shell


def display(*values: Any, **options: Any) -> Any:
    """Show values in the job's output, as `IPython.display.display` does."""
    if find_shell() is not None:
        from IPython.display import display as show_by_ipython

        return show_by_ipython(*values, **options)  # type: ignore[no-untyped-call]  # IPython has few types
    inside = current()
    if inside is not None:
        for value in values:
            data, metadata = (value, {}) if options.get("raw") else by_methods(value)
            show(inside, data, metadata, display_id=options.get("display_id") or "")
    return None
