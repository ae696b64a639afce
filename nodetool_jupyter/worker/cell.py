"""One cell from its code to its reports: what it shows, and the values that it hands back."""

from __future__ import annotations

from .execute import Cell, attempt
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
    """Run a cell and report all that it shows and hands back. Raises what its code raises."""
    try:
        value = place.run_async(cell.run_async(namespace)) if cell.is_async else cell.run(namespace)
        if value is not None:
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
        severity = "warning" if isinstance(error, TooLarge) else "info"
        inside.outlet.emit({"type": "notification", "content": str(error), "severity": severity, "code": "NT-O03"})


def _show(value: object, inside: Inside, bundle: Callable[[object], Bundle]) -> None:
    from .display import show

    data, metadata = bundle(value)
    if data:
        show(inside, data, metadata, result=True)
