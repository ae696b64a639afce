"""Debuggers that would ask a person: there is none in a job."""

from __future__ import annotations

from .current import current
from .imports import when_imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def install() -> None:
    """Refuse `breakpoint()`, `pdb`, `%debug` and `%run -d` in jobs with one sentence, once they are imported.

    A debugger with input of its own, such as one that listens on a port, is left alone.
    """
    when_imported("pdb", _refuse_pdb)
    when_imported("IPython.core.magics.execution", lambda module: _refuse_magics(module.ExecutionMagics))


def _refuse_magics(magics: Any) -> None:
    """Before they begin: what is raised after that, IPython shows and goes on."""
    for name in ("_run_with_debugger", "_debug_post_mortem"):
        if hasattr(magics, name):
            setattr(magics, name, _refusing(getattr(magics, name)))


def _refusing(original: Callable[..., Any]) -> Callable[..., Any]:
    def begin(*arguments: Any, **options: Any) -> Any:
        _refuse()
        return original(*arguments, **options)

    return begin


def _refuse_pdb(pdb: Any) -> None:
    begin, interact = pdb.Pdb.set_trace, pdb.Pdb.interaction

    def set_trace(self: Any, frame: Any = None, **options: Any) -> Any:
        _refuse(self.use_rawinput)
        return begin(self, frame or pdb.sys._getframe().f_back, **options)

    def interaction(self: Any, *arguments: Any, **options: Any) -> Any:
        _refuse(self.use_rawinput)
        return interact(self, *arguments, **options)

    pdb.Pdb.set_trace, pdb.Pdb.interaction = set_trace, interaction


def _refuse(asks: object = True) -> None:
    if asks and current() is not None:
        raise RuntimeError(
            "There is no debugger in a job: nobody is there to answer it. Run the cell without %%nodetool to debug it."
        )
