"""What code inside a job reaches: where its output goes, and whether it was asked to stop."""

from __future__ import annotations

from contextvars import ContextVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    Report = dict[str, Any]
    Pack = Callable[[str, object], tuple[Report, Any]]

    class Outlet(Protocol):
        """Where a job's reports go, in program order. Safe from any thread of the job."""

        def write(self, name: str, text: str) -> None:
            """Text of "stdout" or "stderr"; may wait for more before it goes out."""

        def emit(self, report: Report, body: Any = None) -> None:
            """One report: the fields of its struct and "type"; text written before goes out first."""

        def flush(self) -> None:
            """Send the text that waits."""

        def later(self, seconds: float, callback: Callable[[], None]) -> None:
            """Call back once, after about this long, on some other thread."""


class Inside:
    """One running job as seen from within.

    pack: makes a value's header and body out of a name and an object; raises `CannotTravel`.
    bars: the progress bars that are open, by name. figures, redirected, folder: for a job that
    shares its process, its own pyplot figures, what it put in the place of `sys.stdout` and `sys.stderr`, the
    file mask before and after it changed it, and what gives it a folder for temporary files.
    fed: what was sent to the job while it runs, by name; called for the value.
    handed_over: names of values that `output` has sent back already.
    max_bytes: what its files may have altogether; saved_bytes: what those have that it brought back.
    open: false as soon as the job has ended; what its threads still write then goes where the process writes.
    """

    def __init__(self, outlet: Outlet, pack: Pack, *, max_bytes: int) -> None:
        self.outlet = outlet
        self.pack = pack
        self.max_bytes = max_bytes
        self.saved_bytes = 0
        self.open = True
        self.cancelled = False
        self.bars: dict[str, Any] = {}
        self.bars_made = 0
        self.figures: Any = None
        self.redirected: dict[str, Any] = {}
        self.masks: tuple[int, int] | None = None
        self.folder: Callable[[], str] | None = None
        self.fed: dict[str, Callable[[], object]] = {}
        self.handed_over: set[str] = set()


_here: ContextVar[Inside | None] = ContextVar("nodetool_job", default=None)
_process: Inside | None = None


def current() -> Inside | None:
    """The job that the calling code belongs to, or `None`."""
    inside = _here.get()
    if inside is None:
        inside = _process
    return inside if inside is not None and inside.open else None


def claim_process(inside: Inside | None) -> None:
    """Everything in this process belongs to one job, whatever thread it runs on."""
    global _process
    _process = inside


def claim_context(inside: Inside) -> None:
    """The code that runs in the present context belongs to this job."""
    _here.set(inside)
