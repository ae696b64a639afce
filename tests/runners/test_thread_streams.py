"""The standard streams of the process while jobs in threads come and go."""

from __future__ import annotations

import io
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import nodetool_jupyter
from nodetool_jupyter.runners import thread_streams

HANG_GUARD_SECONDS = 60


def test_threads_that_print_survive_jobs_that_come_and_go() -> None:
    code = """
        import sys, threading
        from nodetool_jupyter.runners import thread_streams

        class Slow:
            def write(self, text):
                gate.wait(0)
                return len(text)

        gate, done, real = threading.Event(), threading.Event(), sys.stdout
        sys.setswitchinterval(1e-6)
        sys.stdout = Slow()

        def loud():
            while not done.is_set():
                print("one", "two", "three")

        threads = [threading.Thread(target=loud) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(20_000):
            thread_streams.install()
            thread_streams.uninstall()
        done.set()
        for thread in threads:
            thread.join()
        sys.stdout = real
        print("alive")
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    folder = Path(nodetool_jupyter.__file__).parents[1]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=HANG_GUARD_SECONDS, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "alive\n", "")


def test_a_stream_keeps_nothing_that_was_set_on_it_while_earlier_jobs_ran() -> None:
    before = sys.stdout
    sys.stdout = io.StringIO()
    try:
        inner = sys.stdout
        thread_streams.install()
        sys.stdout.write = lambda text: 0  # type: ignore[method-assign]  # as IPython does while a cell runs
        thread_streams.uninstall()
        thread_streams.install()
        sys.stdout.write("heard")
        thread_streams.uninstall()
        assert sys.stdout is inner
        assert inner.getvalue() == "heard"
    finally:
        sys.stdout = before


def test_an_assignment_to_sys_that_began_before_the_last_job_ended_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "displayhook", sys.displayhook)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    thread_streams.install()
    assign = type(sys).__setattr__
    thread_streams.uninstall()
    hook, stream = (lambda value: None), io.StringIO()
    assign(sys, "displayhook", hook)
    assign(sys, "stdout", stream)
    assert sys.displayhook is hook
    print("to whoever was assigned")
    assert stream.getvalue() == "to whoever was assigned\n"
