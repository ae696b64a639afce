"""What a cell has of a shell where there is no IPython: `!command`, `x = !command`, and a word on magics."""

from __future__ import annotations

import codecs
import os
import re
import string
import subprocess
import sys
from typing import Any, NoReturn

from .execute import attempt

_DOLLAR = re.compile(r"(.*?)\$(\$?[\w.]+)(?=(?:[^']*'[^']*')*[^']*$)")
"""Not within single quotes, where the system's shell leaves them alone too."""


def run_command(command: str) -> int:
    """Run a command of the system's shell, its output being the job's, in order; the exit code."""
    sys.stdout.flush()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    with _started(command) as process:
        assert process.stdout is not None
        while data := os.read(process.stdout.fileno(), 1 << 16):
            sys.stdout.write(decoder.decode(data))
        sys.stdout.write(decoder.decode(b"", final=True))
    return process.returncode


def _started(command: str) -> subprocess.Popen[bytes]:
    if command.rstrip().endswith("&"):
        raise OSError(
            "A command after ! is waited for, and does not go on in the background with &. Start it with "
            "subprocess.Popen."
        )
    return subprocess.Popen(  # noqa: S602 - a shell is what `!` means
        command,
        shell=True,
        executable=os.environ.get("SHELL") or "/bin/sh",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


class PlainShell:
    """The part of IPython's shell that the text of a cell comes to use without naming it."""

    def __init__(self) -> None:
        self.user_ns: dict[str, Any] = sys.modules["__main__"].__dict__

    def system(self, cmd: str) -> None:
        """`!command`."""
        self.user_ns["_exit_code"] = run_command(self._expanded(cmd))

    def getoutput(self, cmd: str, split: bool = True) -> list[str] | str:
        """`x = !command` and `!!command`: its lines, or with `split=False` the text."""
        with _started(self._expanded(cmd)) as process:
            text = process.communicate()[0].decode("utf-8", "replace")
        return text.splitlines() if split else text

    def run_line_magic(self, magic_name: str, line: str, _stack_depth: int = 1) -> NoReturn:
        """`%magic`: there is none."""
        _refuse(f"%{magic_name}")

    def run_cell_magic(self, magic_name: str, line: str, cell: str) -> NoReturn:
        """`%%magic`: there is none."""
        _refuse(f"%%{magic_name}")

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(_sentence(f"get_ipython().{name}"), name=name, obj=self)

    def _expanded(self, command: str) -> str:
        """The command with what stands in it as `{expression}` and `$name`; as it is where that can't be had."""
        expanded, error = attempt(_expand, command, {**self.user_ns, **sys._getframe(2).f_locals})
        return command if error or expanded is None else expanded


def _expand(command: str, names: dict[str, Any]) -> str:
    """As IPython's `DollarFormatter` does it."""
    formatter, parts = string.Formatter(), []
    for text, field, spec, conversion in formatter.parse(command):
        parts.append(_expand_dollars(text, names))
        if field is not None:
            value = _value(f"{field}:{spec}" if spec else field, names)
            parts.append(format(formatter.convert_field(value, conversion)))
    return "".join(parts)


def _expand_dollars(text: str, names: dict[str, Any]) -> str:
    parts, end = [], 0
    for found in _DOLLAR.finditer(text):
        before, name = found.groups()
        parts += [before, name if name.startswith("$") else format(_value(name, names))]
        end = found.end()
    return "".join([*parts, text[end:]])


def _value(expression: str, names: dict[str, Any]) -> Any:
    return eval(expression, dict(names))  # noqa: S307 - the cell's own words


def _refuse(what: str) -> NoReturn:
    raise RuntimeError(_sentence(what))


def _sentence(what: str) -> str:
    """Where IPython would have to be for this, and how it gets there."""
    if f"{__package__}.container" in sys.modules:
        return (
            f"This cell uses {what}, and IPython is not installed in its container. "
            "Add --requirements ipython, choose an --image that has it, or use plain Python."
        )
    return (
        f"This cell uses {what}, and IPython is not installed for {sys.executable}. "
        "Install it there, or use plain Python."
    )
