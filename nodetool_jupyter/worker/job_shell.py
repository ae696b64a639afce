"""The subclass of IPython's shell that a worker uses; importing it needs IPython."""

from __future__ import annotations

import sys
from typing import Any

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.history import HistoryManager
from IPython.core.interactiveshell import InteractiveShell
from traitlets import Type
from traitlets.config import Config

from . import figures
from .current import current
from .display import drop_widget, show
from .plain_shell import run_command
from .tracebacks import format_exception


class JobPublisher(DisplayPublisher):
    """Displays become reports of the job."""

    def publish(  # type: ignore[override]  # without the parameter that IPython gave up
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        *,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **_: Any,
    ) -> None:
        """Report one display."""
        inside = current()
        if inside is not None:
            drop_widget(data)
            display_id = (transient or {}).get("display_id") or ""
            show(inside, data, metadata, display_id=display_id, update=update)

    def clear_output(self, wait: bool = False) -> None:
        """Report that what was shown so far goes."""
        inside = current()
        if inside is not None:
            inside.outlet.emit({"type": "clear_output", "wait": bool(wait)})


class JobDisplayHook(DisplayHook):
    """Expressions that a magic runs show their value as a display."""

    def write_output_prompt(self) -> None:
        """Nothing: a job has no prompts."""

    def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
        """Report the value of an expression."""
        assert self.shell is not None
        self.shell.display_pub.publish(format_dict, md_dict)

    def finish_displayhook(self) -> None:
        """Nothing to end."""


class JobShell(InteractiveShell):
    """IPython without terminal, history and profile, on the namespace of the job."""

    display_pub_class = Type(JobPublisher)
    displayhook_class = Type(JobDisplayHook)

    def init_history(self) -> None:
        """Keep no history file."""
        self.history_manager = HistoryManager(shell=self, parent=self, enabled=False)

    def init_sys_modules(self) -> None:
        """Leave `__main__` as it is: it is the job's own module."""
        self._main_mod_cache: dict[str, Any] = {}

    def init_display_formatter(self) -> None:
        """All representations, as in a notebook."""
        super().init_display_formatter()  # type: ignore[no-untyped-call]  # IPython has few types
        assert self.display_formatter is not None
        self.display_formatter.active_types = self.display_formatter.format_types

    def system(self, cmd: str) -> None:
        """Run a command of the system's shell; its output is the job's, in order."""
        command = self.var_expand(cmd, depth=1)  # type: ignore[no-untyped-call]  # the same
        self.user_ns["_exit_code"] = run_command(command)

    def run_line_magic(self, magic_name: str, line: str, _stack_depth: int = 1) -> Any:
        """Know `InlineBackend` as soon as `%config` asks for it; it imports matplotlib."""
        if magic_name == "config" and "InlineBackend" in line:
            figures.follow_configuration(self)
        return super().run_line_magic(magic_name, line, _stack_depth + 1)

    def _showtraceback(self, etype: type[BaseException], evalue: BaseException, stb: list[str]) -> None:
        """Report what a magic or a repr raised and IPython went on after."""
        print("\n".join(format_exception(evalue)), file=sys.stderr)

    def enable_gui(self, gui: str | None = None) -> None:
        """A job has no windows; figures come inline."""

    def enable_matplotlib(self, gui: str | None = None) -> tuple[str, str]:
        """Show figures inline, whatever was asked for."""
        figures.use_inline()
        figures.follow_configuration(self)
        return "inline", "inline"


def make_shell() -> JobShell:
    """The shell of this process, on the present `__main__`."""
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    main = sys.modules["__main__"]
    excepthook, hook = sys.excepthook, sys.displayhook
    shell: JobShell = JobShell.instance(config=config, user_module=main, user_ns=main.__dict__)
    sys.excepthook, sys.displayhook = excepthook, hook
    shell.builtin_trap.activate()
    return shell
