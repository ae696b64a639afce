"""What becomes of jobs when their kernel is interrupted, restarted or killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.kernel.conftest import Kernel, gone, until

STARTS_A_FAMILY = """
import os, subprocess, time
child = subprocess.Popen(["sleep", "600"])
print(f"family {os.getpid()} {child.pid} {os.getppid()}", flush=True)  # in one piece
time.sleep(600)
"""


def cell(code: str, options: str = "--runner subprocess") -> str:
    return f"%%nodetool {options}\n{code}"


def family(text: str) -> list[int]:
    """The job, its child and the supervisor, from what the job printed."""
    (line,) = [line for line in text.splitlines() if line.startswith("family ")]
    return [int(word) for word in line.split()[1:]]


def begin(kernel: Kernel, options: str = "--runner subprocess") -> tuple[str, list[int]]:
    started = kernel.start(cell(STARTS_A_FAMILY, options))
    return started, family(kernel.follow(started, until_text="family ").text)


def status(kernel: Kernel, index: int = 0) -> str:
    return kernel.value(
        "from nodetool_jupyter.notebook.session import current\n"
        f"job = current().manager.find()[{index}]; print(job.status.value, job.reason.value if job.reason else '-')"
    )


def test_an_interrupt_cancels_the_job_that_the_cell_waits_for(kernel: Kernel) -> None:
    started, (job, child, _) = begin(kernel)
    kernel.interrupt()
    ran = kernel.follow(started)
    assert ran.error in {"JobCancelled", "KeyboardInterrupt"}
    until(lambda: status(kernel) == "cancelled -")
    assert gone(job)
    assert gone(child)


def test_an_interrupt_of_another_cell_does_not_touch_a_background_job(kernel: Kernel) -> None:
    kernel.value("import os; os.environ['NODETOOL_NONINTERACTIVE'] = '0'")
    kernel.run(
        cell("import time\nfor _ in range(600): time.sleep(1)", "--runner subprocess --background --job lasting")
    )
    busy = kernel.start("print('busy', flush=True)\nimport time; time.sleep(600)")
    kernel.follow(busy, until_text="busy")
    kernel.interrupt()
    assert kernel.follow(busy).error == "KeyboardInterrupt"
    assert status(kernel).split()[0] in {"queued", "starting", "running"}
    kernel.value("lasting.cancel()")


def test_an_interrupt_stops_a_threaded_job_too(kernel: Kernel) -> None:
    started = kernel.start(cell("print('here')\nwhile True: pass", "--runner threaded"))
    kernel.follow(started, until_text="here")
    kernel.interrupt()
    assert kernel.follow(started).error in {"JobCancelled", "KeyboardInterrupt"}
    until(lambda: status(kernel) == "cancelled -")
    assert kernel.value("1 + 1") == "2"


def test_the_kernel_goes_on_after_a_job_that_failed(kernel: Kernel) -> None:
    ran = kernel.run(cell("1 / 0"))
    assert ran.error
    assert "ZeroDivisionError" in ran.message
    assert kernel.value("1 + 1") == "2"


def test_a_job_that_kills_itself_leaves_the_kernel_alone(kernel: Kernel) -> None:
    ran = kernel.run(cell("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"))
    assert "SIGSEGV" in ran.message
    assert status(kernel) == "failed crashed"


@pytest.mark.parametrize("now", [False, True], ids=["asked", "killed"])
def test_a_restart_leaves_no_process_behind(kernel: Kernel, now: bool) -> None:
    _, processes = begin(kernel)
    kernel.restart(now=now)
    until(lambda: all(gone(pid) for pid in processes))
    kernel.value("%load_ext nodetool_jupyter")
    assert kernel.value(cell("print(1 + 1)")).startswith("2")
    assert status(kernel, 1).split()[0] in ({"failed"} if now else {"failed", "cancelled"})


def test_a_killed_kernel_takes_its_jobs_along(kernel: Kernel) -> None:
    _, processes = begin(kernel)
    os.kill(kernel.pid, signal.SIGKILL)
    until(lambda: all(gone(pid) for pid in processes))


def test_the_next_manager_marks_the_jobs_of_a_killed_kernel_as_lost(
    kernel: Kernel, start_kernel: Callable[[], Kernel]
) -> None:
    _, processes = begin(kernel)
    os.kill(kernel.pid, signal.SIGKILL)
    until(lambda: all(gone(pid) for pid in [*processes, kernel.pid]))
    another = start_kernel()
    another.value(cell("print(1)"))
    assert status(another, 1) == "failed lost"


def test_a_kernel_does_not_touch_the_jobs_of_one_that_lives(kernel: Kernel, start_kernel: Callable[[], Kernel]) -> None:
    started, (job, _, _) = begin(kernel)
    another = start_kernel()
    another.value(cell("print(1)"))
    assert status(another, 1) == "running -"
    assert not gone(job)
    kernel.interrupt()
    kernel.follow(started)
