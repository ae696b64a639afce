"""Pyplot's open figures, apart for each threaded job and the rest of the kernel."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from ..worker.current import Inside, current


class FiguresByJob:
    """Stands in for `Gcf.figs`: every job sees its own figures, all others those of the kernel."""

    def __init__(self, shared: OrderedDict[int, Any]) -> None:
        self._shared = shared

    @classmethod
    def install(cls, helpers: Any) -> None:
        """Replace the one table of all figures; it stays, since figures may outlive a job."""
        if not isinstance(helpers.Gcf.figs, cls):
            helpers.Gcf.figs = cls(helpers.Gcf.figs)

    def _own(self) -> OrderedDict[int, Any]:
        inside = current()
        if inside is not None and inside.figures is None:
            inside.figures = OrderedDict()
        figures: OrderedDict[int, Any] = self._shared if inside is None else inside.figures
        return figures

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own(), name)

    def __contains__(self, number: object) -> bool:
        return number in self._own()

    def __iter__(self) -> Iterator[int]:
        yield from self._own()

    def __reversed__(self) -> Iterator[int]:
        yield from reversed(self._own())

    def __len__(self) -> int:
        return len(self._own())

    def __getitem__(self, number: int) -> Any:
        return self._own()[number]

    def __setitem__(self, number: int, manager: Any) -> None:
        self._own()[number] = manager

    def __delitem__(self, number: int) -> None:
        del self._own()[number]


def show_open_figures(inside: Inside) -> None:
    """Show and close what the job left open, as IPython does at the end of a cell; in the job's own context."""
    if not inside.figures:
        return
    inline = sys.modules.get("matplotlib_inline.backend_inline")
    if inline is not None and sys.modules["matplotlib.pyplot"].get_backend() in (
        "inline",
        "module://matplotlib_inline.backend_inline",
    ):
        inline.show(True)
    sys.modules["matplotlib._pylab_helpers"].Gcf.destroy_all()
