"""A job's place in the notebook: which face it gets, where its output goes, and how a cell waits for it."""

from __future__ import annotations

import contextvars
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..errors import Interrupted, InvalidRequest, JobFailed
from ..events import JobUpdate
from ..jobs import Job, JobStatus
from ..view import View, begin, stalled_text
from .faces import LastLine, NoFace, PlainLines, TerminalLine, TextInCell
from .output import CellOutput, NoOutput
from .painter import Canvas, Face, Output

if TYPE_CHECKING:
    from .session import Session

Waited = Literal["ended", "detached", "interrupted"]
_CHECK_SECONDS = 1.0
_MOST_CHECKS = 10


class Handle(Protocol):
    """A job as it is shown: what of `JobHandle` this needs."""

    @property
    def id(self) -> str:
        """The job's id."""
        ...

    @property
    def job(self) -> Job:
        """The job as it is stored now."""
        ...

    @property
    def status(self) -> JobStatus:
        """Where it stands."""
        ...

    def done(self) -> bool:
        """Whether it has ended."""
        ...

    def cancel(self) -> bool:
        """Ask for its end."""
        ...


def show(
    session: Session,
    handle: Handle,
    *,
    progress: str,
    background: bool = False,
    raises: bool = True,
    max_bytes: int | None = None,
    output: bool = True,
) -> Canvas:
    """Give a job its place in the cell that runs now, and show there all that it does.

    raises: whether the cell, if it still waits then, raises what the job ended with; else the output says it.
    """
    context = contextvars.copy_context()
    job = handle.job
    first = begin(job, expected_seconds=session.expected_seconds(job))
    place = _Place(session, handle, context, waiting=not background, raises=raises)
    sink: Output = NoOutput()
    if output and (session.in_kernel or not background):
        session.shown(job.id)
        sink = CellOutput(
            session.shell,
            context,
            max_bytes=max_bytes or job.request.max_output_bytes,
            more=f"`%nodetool logs {'-1' if session.stable else job.id[:8]}` shows it.",
            again=place.again,
            explain=place.explanation,
        )
    face = place.face(progress, first, sink)
    canvas = Canvas(session.painter, first, face, sink)
    place.canvas = canvas
    canvas.waits = lambda: session.manager.waits_for(job.id)
    canvas.unwatch = session.manager.watch_store(canvas.tell)
    canvas.leave = session.manager.subscribe(job.id, canvas.hear)
    canvas.part = place.part
    return canvas


def show_live(session: Session, handle: Handle) -> bool:
    """Show a job in the cell that displays its handle, without waiting for it; `False` where a static form is due.

    What the job writes goes to the first cell that shows it, and to no other.
    """
    progress = session.settings()["progress"]
    here = threading.current_thread() is threading.main_thread()
    if session.stable or not session.in_kernel or not here or progress == "none" or handle.done():
        return False
    output = not session.was_shown(handle.id)
    show(session, handle, progress=progress, background=True, raises=session.raises(handle.id), output=output)
    return True


class _Place:
    """Makes the face, and holds what its buttons need before the canvas is there."""

    def __init__(
        self, session: Session, handle: Handle, context: contextvars.Context, *, waiting: bool, raises: bool
    ) -> None:
        self.canvas: Canvas | None = None
        self._session = session
        self._handle = handle
        self._context = context
        self._waiting = waiting
        self._raises = raises
        self._again: Any = None

    def face(self, progress: str, first: View, sink: Output) -> Face:
        """The way in which the job is shown; `auto`: a card where a front end can show one, else text."""
        session = self._session
        if progress == "none" or (isinstance(sink, NoOutput) and not session.in_kernel):
            return NoFace()
        if session.stable:
            return (
                LastLine(session.shell, self._context)
                if session.in_kernel
                else PlainLines(sys.stdout, sink, stable=True)
            )
        if session.in_kernel and progress != "text":
            return self._card(first)
        if progress == "card":
            raise InvalidRequest("--progress card needs a notebook, and this is none. Use --progress text.")
        if session.in_kernel:
            text = TextInCell(session.shell, self._context, first)
            self._again = lambda: text.show(self.canvas.view if self.canvas else first)
            return text
        return TerminalLine(sys.stdout, sink) if sys.stdout.isatty() else PlainLines(sys.stdout, sink)

    def _card(self, first: View) -> Face:
        from .card import CardFace

        actions = {"cancel": self._cancel, "detach": self._detach}
        face = CardFace(
            self._session.shell,
            self._context,
            first,
            post=self._session.painter.post,
            actions=actions,
            waiting=lambda: self._waiting,
        )
        self._again = face.again
        return face

    def again(self) -> None:
        """Show the face anew after the cell's output was cleared."""
        if self._again is not None:
            self._again()

    def explanation(self, last: JobUpdate) -> str:
        """Why the job failed, for a cell that no longer waits for it or must not fail; "" where the cell raises it."""
        if last.status != JobStatus.FAILED or (self._waiting and self._raises):
            return ""
        lines = last.traceback.split("\n") if last.traceback and not self._session.stable else []
        return "\n".join(JobFailed(last.job_id, last.message, traceback=lines)._render_traceback_())

    def part(self) -> None:
        """The cell waits no more and the job goes on: a notebook shows it further, a terminal is given back."""
        self._waiting = False
        canvas = self.canvas
        if canvas is not None and self._session.in_kernel:
            self._session.painter.post(lambda: canvas.face.paint(canvas.view))
        elif canvas is not None:
            canvas.abandon()

    def _cancel(self) -> str:
        try:
            self._handle.cancel()
        except InvalidRequest as error:
            return str(error)
        return ""

    def _detach(self) -> str:
        self._waiting = False
        if self.canvas is not None:
            self.canvas.woken.set()
        return ""


def wait_in_cell(handle: Handle, canvas: Canvas) -> Waited:
    """Wait until the job has ended and was shown to its end, or the person detaches the cell.

    The first interrupt cancels the job and waits on; the second one leaves it to its end, and so does the first where
    that end can't be written.
    """
    with interruptible():
        try:
            _wait(handle, canvas.woken)
            return "ended" if canvas.done.is_set() or handle.done() else "detached"
        except KeyboardInterrupt:
            asked = handle.cancel()
        try:
            _wait(handle, canvas.done, unless=lambda: bool(canvas.view.trouble))
        except KeyboardInterrupt:
            canvas.part()
            raise Interrupted(
                f"Job {handle.id[:8]} is still {handle.status.value}; `%nodetool wait` waits for its end."
            ) from None
    if canvas.view.trouble and not canvas.done.is_set():
        canvas.part()
        said = "was asked to stop" if asked else "has ended"
        raise Interrupted(
            f"Job {handle.id[:8]} {said}; `%nodetool wait` waits until that can be written. {canvas.view.trouble}"
        )
    return "interrupted"


def watch_in_cell(session: Session, handle: Handle, *, progress: str, raises: bool) -> Waited:
    """Show a job that was started elsewhere and wait as `wait_in_cell`, but that an interrupt leaves it running."""
    left = ExitStack()
    with leaving(handle, then=left.close):
        canvas = show(session, handle, progress=progress, raises=raises)
        left.callback(canvas.part)
        _wait(handle, canvas.woken)
    return "ended" if canvas.done.is_set() or handle.done() else "detached"


def _wait(handle: Handle, event: threading.Event, *, unless: Callable[[], bool] = lambda: False) -> None:
    """Wait in short turns; a job whose last event never comes here is not waited for for ever."""
    checks = 0
    while not event.wait(_CHECK_SECONDS) and checks < _MOST_CHECKS and not unless():
        checks += handle.done()


@contextmanager
def telling(session: Session) -> Iterator[None]:
    """Write into this cell when the store can't be written, for what waits without a face of its own."""
    context, stream = contextvars.copy_context(), sys.stderr

    def tell(trouble: str) -> None:
        if trouble:
            session.painter.post(lambda: context.run(print, stalled_text(trouble), file=stream, flush=True))

    unwatch = session.manager.watch_store(tell)
    try:
        yield
    finally:
        unwatch()


@contextmanager
def leaving(handle: Handle | None = None, *, then: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let an interrupt end the wait for a job, or for all, and not the job. Raises `Interrupted`, after `then`."""
    try:
        with interruptible():
            yield
    except KeyboardInterrupt:
        then()
        if handle is None:
            raise Interrupted("The jobs go on; `%nodetool cancel --all` stops them.") from None
        raise Interrupted(f"Job {handle.id[:8]} goes on; `%nodetool cancel {handle.id[:8]}` stops it.") from None


@contextmanager
def interruptible() -> Iterator[None]:
    """Let an interrupt raise `KeyboardInterrupt` here, also in a cell that awaits, where ipykernel keeps it away."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
