from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from nodetool_jupyter.frames import Raised, Returned
from tests.worker.driving import Child, Ran

Run = Callable[..., Ran]
Start = Callable[..., Child]
WAIT = "import time\nprint('ready')\nwhile True: time.sleep(0.01)"


@pytest.mark.parametrize("code", ["import sys; sys.exit()", "import sys; sys.exit(0)", "exit()", "raise SystemExit"])
def test_an_exit_in_order_is_a_return(run: Run, code: str) -> None:
    ran = run(code)
    assert isinstance(ran.terminal, Returned)
    assert ran.exit_code == 0


@pytest.mark.parametrize(("code", "value"), [("3", "3"), ("'no good'", "no good"), ("False", "False")])
def test_an_exit_with_a_code_is_a_failure(run: Run, code: str, value: str) -> None:
    ran = run(f"import sys\nsys.exit({code})")
    assert (ran.raised.ename, ran.raised.evalue) == ("SystemExit", value)
    assert ran.exit_code == 1


def test_an_exit_of_the_process_sends_no_result(run: Run) -> None:
    ran = run("import os\nprint('bye')\nos._exit(0)")
    assert ran.terminal is None
    assert ran.exit_code == 0
    assert ran.stdout == "bye\n"


def test_a_crash_leaves_what_was_printed_and_where_it_was(run: Run) -> None:
    ran = run("import ctypes\nprint('before')\nctypes.string_at(0)")
    assert ran.terminal is None
    assert ran.exit_code == -signal.SIGSEGV
    assert ran.stdout == "before\n"
    assert "Segmentation fault" in ran.raw_stderr
    assert "<cell>" in ran.raw_stderr


def test_an_interrupt_is_a_keyboard_interrupt(start: Start) -> None:
    child = start()
    child.run("try:\n    " + WAIT.replace("\n", "\n    ") + "\nfinally:\n    print('cleaned')")
    child.printed("ready")
    child.interrupt(signal.SIGINT)
    ran = Ran(child.rest(), child)
    assert (ran.raised.ename, ran.raised.cancelled) == ("KeyboardInterrupt", True)
    assert ran.stdout == "cleaned\n"
    assert ran.exit_code == 1


def test_an_interrupt_cancels_what_an_async_cell_awaits(start: Start) -> None:
    child = start()
    code = (
        "import asyncio\nprint('ready')\ntry:\n    await asyncio.sleep(1000)\n"
        "except asyncio.CancelledError:\n    print('cancelled')\n    raise"
    )
    child.run(code)
    child.printed("ready")
    child.interrupt(signal.SIGINT)
    ran = Ran(child.rest(), child)
    assert ran.raised.ename == "KeyboardInterrupt"
    assert ran.raised.cancelled
    assert ran.stdout == "cancelled\n"


def test_termination_runs_finally_and_atexit(start: Start) -> None:
    child = start()
    code = (
        f"import atexit\natexit.register(print, 'at exit')\ntry:\n"
        f"    {WAIT.replace(chr(10), chr(10) + '    ')}\nfinally:\n    print('finally')"
    )
    child.run(code)
    child.printed("ready")
    child.interrupt(signal.SIGTERM)
    ran = Ran(child.rest(), child)
    assert (ran.raised.ename, ran.raised.evalue, ran.raised.cancelled) == ("SystemExit", "143", True)
    assert ran.stdout == "finally\nat exit\n"


def test_the_cells_own_handler_wins(start: Start) -> None:
    child = start()
    child.run(
        "import signal, time\ncaught = []\nsignal.signal(signal.SIGTERM, lambda *_: caught.append(1))\n"
        "print('ready')\nwhile not caught: time.sleep(0.01)\n"
        "signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    )
    child.printed("ready")
    child.interrupt(signal.SIGTERM)
    ran = Ran(child.rest(), child)
    assert isinstance(ran.terminal, Returned)
    assert ran.value() is True


def test_cancelled_tells_that_termination_was_asked_for(start: Start) -> None:
    child = start()
    child.run(
        "import nodetool_jupyter as nt, time\ntry:\n    print('ready', nt.cancelled())\n"
        "    while True: time.sleep(0.01)\nfinally:\n    print(nt.cancelled())"
    )
    child.printed("ready False")
    child.interrupt(signal.SIGTERM)
    assert Ran(child.rest(), child).stdout == "True\n"


def test_threads_of_the_cell_are_waited_for(run: Run) -> None:
    code = "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()\nNone"
    ran = run(code)
    assert ran.stdout == "late\n"
    assert [type(report) for report in ran.reports[-2:]] != [Returned]
    assert isinstance(ran.reports[-1], Returned)


def test_daemon_threads_are_not_waited_for(run: Run) -> None:
    code = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
    assert isinstance(run(code).terminal, Returned)


def test_atexit_runs_after_the_result_and_what_it_prints_arrives(run: Run) -> None:
    ran = run("import atexit\natexit.register(lambda: 1 / 0)\natexit.register(print, 'bye')\nNone")
    ends = [n for n, report in enumerate(ran.reports) if isinstance(report, Returned)]
    assert ran.stdout == "bye\n"
    assert ends[0] < len(ran.reports) - 1
    assert "ZeroDivisionError" in ran.text("stderr")
    assert ran.exit_code == 0


def test_files_left_open_are_written_and_temporary_ones_removed(run: Run, tmp_path: Path) -> None:
    code = (
        f"import tempfile\nf = open({str(tmp_path / 'f')!r}, 'w')\nf.write('data')\n"
        f"b = open({str(tmp_path / 'b')!r}, 'wb')\nb.write(b'data')\n"
        "t = tempfile.NamedTemporaryFile()\nprint(t.name)"
    )
    ran = run(code)
    assert (tmp_path / "f").read_text() == (tmp_path / "b").read_text() == "data"
    assert not Path(ran.stdout.strip()).exists()


def test_memory_that_runs_out_is_reported(run: Run) -> None:
    code = (
        "import resource\nresource.setrlimit(resource.RLIMIT_DATA, (1 << 28, 1 << 28))\n"
        "kept = []\nwhile True: kept.append(bytearray(1 << 20))"
    )
    ran = run(code)
    assert ran.raised.ename == "MemoryError"


def test_an_exception_whose_text_fails_is_reported(run: Run) -> None:
    ran = run("class Bad(Exception):\n    def __str__(self): raise ValueError\nraise Bad")
    assert ran.raised.ename == "Bad"


def test_an_exception_with_a_huge_text_is_cut(run: Run) -> None:
    ran = run("raise ValueError('x' * 50_000_000)")
    assert ran.raised.ename == "ValueError"
    assert len(ran.raised.evalue) < 11_000
    assert "more characters" in ran.raised.evalue


def test_there_is_one_terminal_report_whatever_a_late_interrupt_does(start: Start) -> None:
    child = start()
    child.run("import atexit, time\natexit.register(lambda: (print('leaving'), time.sleep(0.2)))\nNone")
    child.until(lambda report: isinstance(report, Returned))
    child.interrupt(signal.SIGINT)
    rest = child.rest()
    assert not [report for report in rest if isinstance(report, Returned | Raised)]
    assert child.exit_code == 0
