"""IPython's shell inside a worker, made when something asks for it: magics, `!cmd`, formatters, `get_ipython()`."""

from __future__ import annotations

import builtins
import sys

from .current import current
from .display import by_methods, show, use_shell
from .execute import attempt
from .imports import when_imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_shell: Any = None
_making = False
_in_a_worker = False


def exists() -> bool:
    """Whether the shell was made already."""
    return _shell is not None


def install() -> None:
    """Make `get_ipython` and `display` known to the cell, and our shell to libraries that ask IPython for one.

    Where there is no IPython, `get_ipython` is none of the builtins: libraries look for it to learn where they are.
    """
    global _in_a_worker
    _in_a_worker = True
    builtins.display = display  # type: ignore[attr-defined]  # IPython does the same
    if attempt(_is_there)[0]:  # finders may be anybody's
        builtins.get_ipython = get_ipython  # type: ignore[attr-defined]  # IPython does the same
    use_shell(find_shell, exists)
    when_imported("IPython.core.interactiveshell", _adopt)


def _is_there() -> bool:
    """Whether IPython can be found; to import it takes long."""
    finders = (finder for finder in sys.meta_path if hasattr(finder, "find_spec"))
    return "IPython" in sys.modules or any(finder.find_spec("IPython", None) is not None for finder in finders)


def give_to_cell(namespace: dict[str, Any], code: str) -> None:
    """Let a cell that has `!command` or a magic in it find a shell where nobody else may."""
    if "get_ipython" in code and not hasattr(builtins, "get_ipython"):
        namespace["get_ipython"] = _OfCell()


class _OfCell:
    """`get_ipython` for the cell alone. In functions of the cell that are sent elsewhere it is the one there."""

    def __call__(self) -> Any:
        return _find_for_cell()

    def __reduce__(self) -> Any:
        return get_ipython_here, ()


def get_ipython_here() -> Any:
    """What `get_ipython` is in a function with `!command` in it that comes from elsewhere."""
    if _in_a_worker:
        return _OfCell()
    from IPython import get_ipython as found

    return found


def _find_for_cell() -> Any:
    shell = find_shell()
    if shell is None:
        from .plain_shell import PlainShell

        shell = PlainShell()
    return shell


def _adopt(module: Any) -> None:
    """Let `InteractiveShell.instance()` make our shell, and `initialized()` say that there is one."""
    builtins.get_ipython = get_ipython  # type: ignore[attr-defined]  # IPython does the same
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
    """IPython's shell, as in a notebook. Where IPython can't be imported, libraries are told as plain Python does."""
    if sys._getframe(1).f_globals is sys.modules["__main__"].__dict__:
        return _find_for_cell()
    shell = find_shell()
    if shell is None:
        raise NameError("name 'get_ipython' is not defined", name="get_ipython")
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
