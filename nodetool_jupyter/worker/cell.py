"""One cell from its code to its reports: what it shows, and the values that it hands back."""

from __future__ import annotations

from .execute import Cell, attempt, wait_for_tasks
from .values import CannotTravel, TooLarge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any, Protocol

    from .current import Inside
    from .display import Bundle

    class Place(Protocol):
        """What differs between a process of its own and a thread of the kernel."""

        def bundle(self, value: object) -> Bundle:
            """How a value is shown."""

        def flush_figures(self) -> None:
            """Show the figures that were left open."""

        def run_async(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
            """Run a coroutine to its end."""


class OutputNotDefined(NameError):
    """The cell was to hand back a name and did not define it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The cell ended without a variable {name!r}, which --out asks for. Assign it in the cell.")


def run_cell(cell: Cell, namespace: dict[str, Any], *, outputs: Sequence[str], inside: Inside, place: Place) -> None:
    """Run a cell and report all that it shows and hands back. Raises what its code raises.

    Its value and figures are shown when it ends. Tasks that an async cell leaves are waited for after that, unless
    it raised, which cancels them. What it hands back is taken when they have ended.
    """
    try:
        if cell.is_async:
            value = place.run_async(_run_async(cell, namespace, inside, place))
        else:
            value = cell.run(namespace)
            _show(value, inside, place.bundle)
    finally:
        place.flush_figures()
    for name in outputs:
        if name in namespace:
            inside.outlet.emit(*inside.pack(name, namespace[name]))
        elif name not in inside.handed_over:
            raise OutputNotDefined(name)
    packed, error = attempt(inside.pack, "", value) if value is not None else (None, None)
    if packed is not None:
        inside.outlet.emit(*packed)
    elif isinstance(error, CannotTravel):  # it was shown, and few ask for it
        _tell(inside, "warning" if isinstance(error, TooLarge) else "info", "NT-O03", str(error))


async def _run_async(cell: Cell, namespace: dict[str, Any], inside: Inside, place: Place) -> Any:
    value = await cell.run_async(namespace)
    _show(value, inside, place.bundle)
    place.flush_figures()
    await wait_for_tasks(lambda said: _tell(inside, "warning", "NT-A03", said))
    return value


def _tell(inside: Inside, severity: str, code: str, content: str) -> None:
    inside.outlet.emit({"type": "notification", "content": content, "severity": severity, "code": code})


def _show(value: object, inside: Inside, bundle: Callable[[object], Bundle]) -> None:
    if value is None:
        return
    from .display import show

    data, metadata = bundle(value)
    if data:
        show(inside, data, metadata, result=True)
