"""Matplotlib's figures in a worker: shown as PNG, in order, by `plt.show()` and at the end of the cell."""

from __future__ import annotations

import os
import sys

from .current import current
from .imports import when_imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BACKEND = f"module://{__package__}.figure_backend"


def install() -> None:
    """Make this the backend of a matplotlib that is imported later, unless another one was chosen."""
    chosen = os.environ.get("MPLBACKEND", "")
    if "inline" in chosen:
        del os.environ["MPLBACKEND"]
    elif chosen:
        return
    when_imported("matplotlib", lambda module: module.rcParams.__setitem__("backend", BACKEND))


def use_inline() -> None:
    """Switch to this backend, as `%matplotlib inline` does."""
    import matplotlib

    matplotlib.use(BACKEND)


def flush() -> None:
    """Show and close the figures that a cell left open."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None and pyplot.get_backend() == BACKEND:
        show()


def show() -> None:
    """Show all open figures and close them."""
    from matplotlib._pylab_helpers import Gcf

    for manager in Gcf.get_all_fig_managers():
        show_figure(manager.canvas.figure)
    Gcf.destroy_all()


def show_figure(figure: Any) -> None:
    """Report one figure."""
    from .display import bundle
    from .display import show as report

    inside = current()
    if inside is not None:
        data, metadata = bundle(figure)
        report(inside, data, metadata)


def follow_configuration(shell: Any) -> None:
    """Let `%config InlineBackend.…` work: the formats that it sets are those of the shell's formatter."""
    try:
        from matplotlib_inline.config import InlineBackend
    except ImportError:
        return
    configuration = InlineBackend.instance(parent=shell)
    if configuration not in shell.configurables:
        configuration.shell = shell
        shell.configurables.append(configuration)
