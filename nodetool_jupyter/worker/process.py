"""A job in a process of its own: the environment that its code finds, and how the process ends."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # what it raises shows no line of `signal`
import atexit
import builtins
import faulthandler
import gc
import io
import os
import sys
from _thread import start_new_thread
from time import sleep

from . import HELD_SIGNALS, debugger, display, figures, logs, progress, shell, sources, streams
from .cell import run_cell
from .current import Inside, claim_process, current
from .execute import Cell, attempt, attempt_all, is_plain_exit, run_on_a_loop
from .imports import when_imported
from .inside import save_all
from .transfer import Fed, Packer, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType, ModuleType
    from typing import Any, NoReturn

    from .channel import Channel
    from .current import Report

    Inputs = list[tuple[Report, memoryview]]

_TERMINATED = 128 + signal.SIGTERM
_ORPHAN_SECONDS = 1.0
_HIGH = 62
_LIBRARY = [folder for folder in sys.path if folder]
_REHEARSED_BYTES = 1 << 10


class _Place:
    """A process that belongs to the job alone."""

    bundle = staticmethod(display.bundle)
    flush_figures = staticmethod(figures.flush)
    run_async = staticmethod(run_on_a_loop)


class _Rehearsal(_Place):
    """A place without figures: to ask for them has matplotlib choose a backend, which is for the job to do."""

    flush_figures = staticmethod(lambda: None)


def run_job(channel: Channel, run: Report, inputs: Inputs) -> int:
    """Run the work of one `run` frame to its end and report it; the exit code."""
    pid = os.getpid()
    most = run["max_transfer_bytes"]
    pack = Packer(most, pickles=run["pickles"], by_value=run["by_value"], python=run["python"])
    inside = Inside(channel, pack, max_bytes=most)
    claim_process(inside)
    _keep_room()
    _watch_parent(channel, inside)
    _claim_streams(channel)
    _claim_process(channel, pid)
    error = _run_to_its_end(run, inputs, inside, pid)
    progress.finish(inside)
    report = _terminal(error)
    channel.emit(report)
    channel.flush()
    _listen_again()
    attempt_all(atexit._run_exitfuncs)
    attempt_all(_flush_files)
    channel.close()
    return 0 if report["type"] == "returned" else 1


def _run_to_its_end(run: Report, inputs: Inputs, inside: Inside, pid: int) -> BaseException | None:
    """Run the work and wait for its threads; what it raised. From then on no handler of its own interrupts us."""
    error: BaseException | None = None
    done = False
    while True:
        try:
            if not done:
                _, error = attempt_all(_work, run, inputs, inside)
                done = True
            if os.getpid() != pid:  # a child that the work forked, and that came all the way here
                os._exit(0 if is_plain_exit(error) or error is None else 1)
            if error is None or is_plain_exit(error):
                _, error = attempt_all(_end_threads)
            _stop_listening()
        except BaseException as late:  # from a handler, between two of these steps
            error, done = error or late, True
            continue
        return error


_handlers: dict[int, Any] = {}


def _stop_listening() -> None:
    """Put a handler that does nothing in the place of each that could interrupt us, until `_listen_again`."""
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler) and handler is not _nothing:
            _handlers[number] = handler
            signal.signal(number, _nothing)


def _listen_again() -> None:
    """Let the work's handlers be heard by its `atexit`, but for an interrupt that comes too late."""
    _handlers.pop(signal.SIGINT, None)
    for number, handler in _handlers.items():
        attempt_all(signal.signal, number, handler)


def _nothing(*_: object) -> None:
    return


def _work(run: Report, inputs: Inputs, inside: Inside) -> None:
    _take_surroundings(run)
    main = _make_main()
    _take_signals()
    for header, body in inputs:
        main.__dict__[header["name"]] = unpack(header, body)
    inputs.clear()
    shell.give_to_cell(main.__dict__, run["code"])
    filename = run["filename"]
    when_imported("linecache", lambda _: sources.take({**run.get("sources", {}), filename: ("", run["code"])}))
    cell = Cell(run["code"], filename)
    try:
        run_cell(cell, main.__dict__, outputs=run["outputs"], inside=inside, place=_Place())
    finally:
        for pattern in run["collect"]:
            save_all(pattern)


def _take_signals() -> None:
    """Let a stop reach the work from here on; one that came while the process booted arrives now."""
    signal.signal(signal.SIGTERM, _terminate)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)


def _take_surroundings(run: Report) -> None:
    """Site packages, then the kernel's own path, secrets, and what libraries are to find."""
    import site

    if not hasattr(builtins, "quit"):  # a warm parent has done it already
        site.main()
    if run["sys_path"] is not None:
        sys.path[:] = run["sys_path"]
    os.environ.update({**run["environ"], **run["secrets"]})
    prepare()
    figures.install()


_prepared = False


def prepare() -> None:
    """What libraries find in every job, whichever it is; a warm parent has done it already."""
    global _prepared
    if _prepared:
        return
    _prepared = True
    builtins.input = refuse_input
    when_imported("getpass", lambda module: setattr(module, "getpass", refuse_input))
    debugger.install()
    when_imported("subprocess", _let_children_boot_normally)
    shell.install()
    progress.install()
    logs.install()


def rehearse() -> None:
    """Do what a job does, on a channel that nobody reads: in a forked process the first time takes longest."""
    from .channel import Channel

    read_end, write_end = os.pipe()
    channel = Channel(write_end)
    inside = Inside(channel, Packer(_REHEARSED_BYTES, pickles=True, by_value=True), max_bytes=_REHEARSED_BYTES)
    try:
        run_cell(Cell("1 + 1", "<warm>"), {}, outputs=(), inside=inside, place=_Rehearsal())
        channel.emit({"type": "returned"})
    finally:
        channel.close()
        os.close(read_end)


def refuse_input(*_: object, **__: object) -> NoReturn:
    """What `input()` is in a job."""
    raise RuntimeError("input() does not work in a job: nobody is there to answer. Pass the value with --in.")


def _let_children_boot_normally(module: Any) -> None:
    """Keep `-I -S`, which only our boot needs, from the interpreters that the job's code starts."""
    flags = module._args_from_interpreter_flags
    module._args_from_interpreter_flags = lambda: [flag for flag in flags() if flag not in ("-I", "-S")]


def _make_main() -> ModuleType:
    main: ModuleType = type(sys)("__main__")
    main.__dict__.update(__builtins__=builtins, __annotations__={})
    _kept.append(sys.modules["__main__"])
    sys.modules["__main__"] = main
    return main


_kept: list[ModuleType] = []


def _claim_streams(channel: Channel) -> None:
    streams.claim(channel)
    faulthandler.enable(2)


def _claim_process(channel: Channel, pid: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # a signal that comes between Python's look for one and a system call is only seen after the call:
    # the supervisor sends this one a little later, to end the call
    signal.signal(signal.SIGURG, lambda *_: None)

    def forked() -> None:
        channel.after_fork()
        claim_process(None)
        if signal.getsignal(signal.SIGTERM) is _terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    os.register_at_fork(after_in_child=forked)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """The default answer to SIGTERM: unwind, so that `finally` and `atexit` run."""
    inside = current()
    if inside is not None:
        inside.cancelled = True
    raise SystemExit(_TERMINATED)


def _watch_parent(channel: Channel, inside: Inside) -> None:
    """Take what is sent to the job; stop when the channel ends: nobody is there any more."""

    def watch() -> None:
        while (frame := channel.read()) is not None:
            if frame[0]["type"] == "feed":
                inside.fed[frame[0]["name"]] = Fed(*frame)
        if channel.replaced:
            return
        os.kill(os.getpid(), signal.SIGTERM)
        sleep(_ORPHAN_SECONDS)
        os._exit(_TERMINATED)

    start_new_thread(watch, ())


def _end_threads() -> None:
    """Wait for the threads that the job's code left running, as the end of a script does."""
    threading = sys.modules.get("threading")
    if threading is not None:
        threading._shutdown()


_files_before: list[Any] = []


def note_files() -> None:
    """Remember the files that there are, before a warm parent hides all that it has from the collector."""
    _files_before[:] = _files_among(gc.get_objects())


def _files_among(things: Iterable[Any]) -> list[Any]:
    tempfile = sys.modules.get("tempfile")
    removed = (tempfile._TemporaryFileWrapper, tempfile.SpooledTemporaryFile) if tempfile is not None else ()
    kinds = {io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom, *removed}
    return [thing for thing in things if type(thing) in kinds]


def _flush_files() -> None:
    """What the end of an interpreter does for files that were left open; ours leaves by `os._exit`.

    What is hidden from the collector stays so: to look at all of it copies the memory that is shared with a warm
    parent, which takes longer than most jobs.
    """
    files = [*_files_before, *_files_among(gc.get_objects())]
    for file in files:
        if type(file).__module__ != "tempfile":
            attempt_all(file.flush)
    for file in files:
        if type(file).__module__ == "tempfile":
            attempt_all(file.close)


def _terminal(error: BaseException | None) -> Report:
    if error is None or is_plain_exit(error):
        return {"type": "returned"}
    stopped = isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code == _TERMINATED)
    tracebacks, _ = attempt(_import_tracebacks)
    if tracebacks is not None:
        report: Report = tracebacks.describe(error, cancelled=stopped)
        return report
    name, (text, _) = type(error).__name__, attempt(str, error)
    return {
        "type": "raised",
        "ename": name,
        "evalue": text or "",
        "traceback": [f"{name}: {text or ''}"],
        "cancelled": stopped,
    }


_room: list[int] = []


def _keep_room() -> None:
    """Hold a descriptor, to open files of the standard library with after work that has left none."""
    opened = os.open(os.devnull, os.O_RDONLY)
    with_room, _ = attempt(os.dup2, opened, _HIGH, False)  # where code that closes low ones does not meet it
    if with_room is not None:
        _room.append(with_room)
    os.close(opened)


def _import_tracebacks() -> Any:
    """The module, after the work: few need it, and its imports take as long as all others.

    The work may have left no descriptor, and files on its path that are called as those of the standard library.
    """
    while _room:
        attempt(os.close, _room.pop())
    path, sys.path[:] = sys.path[:], _LIBRARY
    try:
        from . import tracebacks

        return tracebacks
    finally:
        sys.path[:] = path
