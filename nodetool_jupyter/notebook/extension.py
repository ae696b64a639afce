"""`%load_ext nodetool_jupyter`: makes the magics known, and nothing more."""

from __future__ import annotations

from typing import Any

from . import completion
from .magics import NodetoolMagics
from .session import replace_current


def load_ipython_extension(shell: Any) -> None:
    """Make `%%nodetool` and `%nodetool` known. Cheap: everything heavy waits for the first job."""
    magics = NodetoolMagics(shell)
    shell.register_magics(magics)
    completion.install(shell, magics.session)
    shell.events.register("pre_run_cell", magics.session.bind_ended)
    replace_current(magics.session)


def unload_ipython_extension(shell: Any) -> None:
    """Stop every job and take the magics away."""
    session = replace_current(None)
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("nodetool", None)
    completion.uninstall(shell)
    if session is not None:
        shell.events.unregister("pre_run_cell", session.bind_ended)
        session.close()
