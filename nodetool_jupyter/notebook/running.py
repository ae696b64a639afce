"""What a cell under `%%nodetool` does, from its options to its end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..errors import Interrupted
from .handle import JobHandle
from .launch import plan_cell, submit
from .options import Options
from .plans import describe
from .requests import nothing_started
from .showing import show, wait_in_cell

if TYPE_CHECKING:
    from .session import Session


def run_cell(session: Session, options: Options, cell: str) -> None:
    """Run a cell as a job, and wait for it unless it is to run in the background. Raises what the job ended with."""
    with nothing_started():
        plan = plan_cell(session, options, cell)
    if options.dry_run:
        runner = session.manager.runner(options.runner)
        print(describe(options, plan, runner.foresee(plan.request), runner.holds(), stable=session.stable))
        return
    if plan.left_out:
        print(
            f"Not sent, since only plain values travel to the job's Python: {', '.join(plan.left_out)}. "
            "Where the cell needs one, send plain data in its place.",
            file=sys.stderr,
        )
    handle = JobHandle(session, submit(session, plan))
    present(
        session,
        handle,
        progress=options.progress,
        background=options.background,
        raises=options.raises,
        name=options.job,
    )


def present(
    session: Session, handle: JobHandle, *, progress: str, background: bool = False, raises: bool = True, name: str = ""
) -> None:
    """Show a job in this cell and see it to its end, unless it is to run in the background."""
    background = background and not session.stable
    session.tell_warnings()
    waited = ""
    try:
        _name(session, handle, name)
        canvas = show(session, handle, progress=progress, background=background, raises=raises)
        if not background:
            waited = wait_in_cell(handle, canvas)
    except Interrupted:
        raise
    except BaseException:  # an interrupt too, which may come before the wait that would take it
        handle.cancel()
        raise
    if background:
        _leave(session, handle, raises=raises)
        if not session.in_kernel:
            print(f"Job {handle.id[:8]} runs in the background. `%nodetool attach -1` shows it here.")
        return
    if waited == "detached":
        _leave(session, handle, raises=raises)
    else:
        finish(session, handle, raises=raises or waited == "interrupted")


def _leave(session: Session, handle: JobHandle, *, raises: bool) -> None:
    """Let the job go on; a later cell that waits for it takes its values, and fails with it if this one were to."""
    session.bind(handle)
    if not raises:
        session.forgive(handle.id)


def finish(session: Session, handle: JobHandle, *, raises: bool = True) -> None:
    """Bind what a job that has ended brought back, or raise what it ended with."""
    error = handle.exception()
    if error is None:
        if session.shell is not None:
            handle.put_into(session.shell.user_ns)
    elif raises:
        raise error


def _name(session: Session, handle: JobHandle, name: str) -> None:
    if session.shell is not None:
        session.shell.user_ns["_job"] = handle
        if name:
            session.shell.user_ns[name] = handle
