"""The backend that matplotlib uses in a worker; importing it needs matplotlib."""

from __future__ import annotations

from typing import Any

from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg

from . import figures


class FigureManager(FigureManagerBase):
    """Knows how `figure.show()` shows a figure."""

    def show(self) -> None:
        """Report this figure."""
        figures.show_figure(self.canvas.figure)


class FigureCanvas(FigureCanvasAgg):
    """Agg, with our manager."""

    manager_class = FigureManager


def show(*_: Any, **__: Any) -> None:
    """What `plt.show()` calls."""
    figures.show()
