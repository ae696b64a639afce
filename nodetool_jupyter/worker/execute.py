"""Compile and run somebody else's code; the one place of a worker that catches whatever it raises."""

from __future__ import annotations

import sys
from _ast import Expr, Expression, Module, PyCF_ALLOW_TOP_LEVEL_AWAIT, PyCF_ONLY_AST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import CodeType
    from typing import Any, TypeVar

    T = TypeVar("T")

_CO_COROUTINE = 0x80
_TRIES = 10
_LOOK_SECONDS = 1.0
_TASKS_NAMED = 3


def attempt(function: Callable[..., T], *arguments: Any) -> tuple[T | None, Exception | None]:
    """The result of code that is not ours, or what it raised; an interrupt and an exit pass through."""
    try:
        return function(*arguments), None
    except Exception as error:
        return None, error


def attempt_all(function: Callable[..., T], *arguments: Any) -> tuple[T | None, BaseException | None]:
    """The same, and nothing passes through."""
    try:
        return function(*arguments), None
    except BaseException as error:
        return None, error


def parse(code: str, filename: str) -> Module:
    """The tree of a cell. Raises what `compile` does.

    Python 3.11 keeps one count of the depth for all threads. Where the collector lets another thread parse in the
    middle of this, it finds a wrong one and raises `SystemError`: then once more.
    """
    for _ in range(_TRIES - 1):
        try:
            return _parse(code, filename)
        except SystemError:
            continue
    return _parse(code, filename)


def _parse(code: str, filename: str) -> Module:
    tree: Module = compile(code, filename, "exec", PyCF_ONLY_AST | PyCF_ALLOW_TOP_LEVEL_AWAIT, True)
    return tree


class Cell:
    """A cell's code, compiled: its statements, then the expression whose value it shows, if any.

    Raises `SyntaxError`, `ValueError` (a null byte) and the like on construction, as `compile` does.
    """

    def __init__(self, code: str, filename: str) -> None:
        tree = parse(code, filename)
        last = tree.body[-1] if tree.body else None
        if not isinstance(last, Expr) or _is_silenced(code, last):
            last = None
        else:
            tree.body.pop()
        self._body = _compile(tree, filename, "exec") if tree.body else None
        self._last = _compile(Expression(last.value), filename, "eval") if last is not None else None

    @property
    def is_async(self) -> bool:
        """Whether it has an `await` of its own."""
        return any(part is not None and part.co_flags & _CO_COROUTINE for part in (self._body, self._last))

    def run(self, namespace: dict[str, Any]) -> Any:
        """The value of the last expression; `None` when there is none, or a `;` behind it."""
        if self._body is not None:
            exec(self._body, namespace)  # noqa: S102 - the job's purpose
        return eval(self._last, namespace) if self._last is not None else None  # noqa: S307 - the same

    async def run_async(self, namespace: dict[str, Any]) -> Any:
        """The same for a cell that awaits."""
        value = None
        for part in (self._body, self._last):
            if part is not None:
                value = eval(part, namespace)  # noqa: S307 - the job's purpose
                if part.co_flags & _CO_COROUTINE:
                    value = await value
        return value if self._last is not None else None


def _compile(tree: Module | Expression, filename: str, mode: str) -> CodeType:
    code: CodeType = compile(tree, filename, mode, PyCF_ALLOW_TOP_LEVEL_AWAIT, True)
    return code


def _is_silenced(code: str, last: Expr) -> bool:
    """Whether a `;` follows the last expression."""
    lines = code.encode().split(b"\n")
    behind = lines[(last.end_lineno or 1) - 1][last.end_col_offset :]
    return behind.lstrip().startswith(b";")


def run_on_a_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end on an event loop of its own; tasks that are left after that are cancelled."""
    import asyncio

    with asyncio.Runner() as runner:
        return runner.run(coroutine)


async def wait_for_tasks(tell: Callable[[str], object]) -> None:
    """Wait until the other tasks of the running loop have ended, and those that they start.

    What one of them raised and nobody took goes to the loop's exception handler, which logs it. Where the wait is a
    long one, `tell` gets a sentence that says what is waited for, once.
    """
    import asyncio

    mine, loop, told = asyncio.current_task(), asyncio.get_running_loop(), False
    while left := asyncio.all_tasks() - {mine}:
        ended, still = await asyncio.wait(left, timeout=_LOOK_SECONDS)
        for task in ended:
            if getattr(task, "_log_traceback", False) and (error := task.exception()):  # the collector comes too late
                message = "Task exception was never retrieved"
                loop.call_exception_handler({"message": message, "exception": error, "task": task})
        if still and not told:
            told = True
            names = ", ".join(sorted({getattr(task.get_coro(), "__qualname__", "?") for task in still})[:_TASKS_NAMED])
            tell(f"The cell has ended. The job waits for tasks that it left ({names}); cancel it to end them at once.")


def is_plain_exit(error: BaseException | None) -> bool:
    """Whether this is `sys.exit()` or `sys.exit(0)`: an end in order."""
    return isinstance(error, SystemExit) and error.code in (None, 0) and error.code is not False


def own_folder() -> str:
    """The folder of this package's worker code; its frames are not the person's."""
    return sys._getframe().f_code.co_filename.rpartition("/")[0]
