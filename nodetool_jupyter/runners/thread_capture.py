"""What belongs to a threaded job while others share the process: streams, displays, threads, figures, temporary files.

Each is a patch that looks at the calling context and passes through where there is no job; all are in place while
at least one job runs, and gone after.
"""

from __future__ import annotations

import builtins
import getpass
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from ..worker import debugger, imports, logs, progress
from ..worker.current import current
from ..worker.display import show
from ..worker.process import refuse_input
from . import thread_streams
from .thread_figures import FiguresByJob

_lock = threading.Lock()
_running = 0
_undo: list[Callable[[], None]] = []
_followed = False


def acquire() -> None:
    """One more job runs."""
    global _running
    with _lock:
        _running += 1
        if _running == 1:
            _install()
        imports.apply_missed()


def release() -> None:
    """One job fewer runs."""
    global _running
    with _lock:
        _running -= 1
        if _running == 0:
            while _undo:
                _undo.pop()()


def _install() -> None:
    global _followed
    if not _followed:
        _followed = True
        debugger.install()
        progress.install()
        logs.install()
    thread_streams.install()
    _undo.append(thread_streams.uninstall)
    _replace(threading.Thread, "start", _inheriting(threading.Thread.start))
    _replace(tempfile, "_gettempdir", _temporary_folder(tempfile._gettempdir))  # type: ignore[attr-defined]  # what all of it asks
    _replace(os, "umask", _noting(os.umask))
    _replace(builtins, "input", _refusing(builtins.input))
    _replace(getpass, "getpass", _refusing(getpass.getpass))
    _patch_shell()
    helpers = sys.modules.get("matplotlib._pylab_helpers")
    if helpers is not None:
        FiguresByJob.install(helpers)
    else:
        imports.when_imported("matplotlib._pylab_helpers", FiguresByJob.install)


def _replace(owner: Any, name: str, value: Any) -> None:
    """Set an attribute until the last job ends; whoever sets it anew meanwhile wins."""
    own = vars(owner)
    before, had = own.get(name), name in own
    setattr(owner, name, value)

    def undo() -> None:
        if vars(owner).get(name) is value:
            if had:
                setattr(owner, name, before)
            else:
                delattr(owner, name)

    _undo.append(undo)


def _inheriting(start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    """A `Thread.start` whose thread belongs to the job that starts it, if any."""

    def start_inside(self: threading.Thread) -> None:
        if current() is not None and not type(self).__module__.startswith(("tqdm", __package__ or "")):
            context, run = copy_context(), self.run
            self.run = lambda: context.run(run)  # type: ignore[method-assign]  # for this thread only
        start(self)

    return start_inside


def _refusing(original: Callable[..., Any]) -> Callable[..., Any]:
    if hasattr(original, "refuses_inside_jobs"):
        return original

    def ask(*arguments: Any, **options: Any) -> Any:
        return original(*arguments, **options) if current() is None else refuse_input()

    ask.refuses_inside_jobs = True  # type: ignore[attr-defined]  # so that it is never wrapped twice
    return ask


def _temporary_folder(original: Callable[[], Any]) -> Callable[[], Any]:
    def find() -> Any:
        inside = current()
        return original() if inside is None or inside.folder is None else inside.folder()

    return find


def _noting(umask: Callable[[int], int]) -> Callable[[int], int]:
    """An `os.umask` that remembers which job changed it; only asking for it would change it, too."""

    def change(mask: int, /) -> int:
        before = umask(mask)
        inside = current()
        if inside is not None:
            inside.masks = (inside.masks[0] if inside.masks else before, mask)
        return before

    return change


def running_shell() -> Any:
    """IPython's shell of this process, if there is one."""
    module = sys.modules.get("IPython.core.interactiveshell")
    if module is None or not module.InteractiveShell.initialized():
        return None
    return module.InteractiveShell.instance()


def _patch_shell() -> None:
    shell = running_shell()
    if shell is None:
        return
    from IPython.core.displaypub import CapturingDisplayPublisher

    for publisher in (shell.display_pub, CapturingDisplayPublisher):
        _replace(publisher, "publish", _publishing(publisher.publish))
        _replace(publisher, "clear_output", _clearing(publisher.clear_output))
    if hasattr(shell, "ask_exit"):
        _replace(shell, "ask_exit", _leaving(shell, shell.ask_exit))
    kernel = getattr(shell, "kernel", None)
    for name in ("raw_input", "getpass"):  # what ipykernel makes `input` and `getpass` while a cell runs
        if hasattr(kernel, name):
            _replace(kernel, name, _refusing(getattr(kernel, name)))
    for name in ("_sys_raw_input", "_save_getpass"):  # what it makes them again when a cell has ended
        if callable(getattr(kernel, name, None)):
            setattr(kernel, name, _refusing(getattr(kernel, name)))


def _leaving(shell: Any, ask: Callable[[], None]) -> Callable[[], None]:
    """What `exit` and `quit` do: in a job they end it, as `sys.exit` does, and not the kernel."""

    def ask_exit() -> None:
        if current() is None:
            ask()
            return
        keep = getattr(shell, "keepkernel_on_exit", None)  # ipykernel's `exit` has put its argument there
        raise SystemExit(None if isinstance(keep, bool) else keep)

    return ask_exit


def _publishing(original: Callable[..., None]) -> Callable[..., None]:
    def publish(*arguments: Any, **options: Any) -> None:
        inside = current()
        if inside is None:
            original(*arguments, **options)
            return
        at = 0 if "data" in options or (arguments and isinstance(arguments[0], dict)) else 1
        data, metadata = [*arguments[at:], None, None][:2]
        display_id = (options.get("transient") or {}).get("display_id") or ""
        update = bool(options.get("update"))
        data, metadata = options.get("data", data), options.get("metadata", metadata)
        show(inside, data or {}, metadata, display_id=display_id, update=update)

    return publish


def _clearing(original: Callable[..., None]) -> Callable[..., None]:
    def clear_output(*arguments: Any, **options: Any) -> None:
        inside = current()
        if inside is None:
            original(*arguments, **options)
            return
        wait = options.get("wait", bool(arguments) and arguments[-1] is True)
        inside.outlet.emit({"type": "clear_output", "wait": bool(wait)})

    return clear_output
