"""A store that can't be written while jobs run: it is said where they are watched, and a cell can be left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nodetool_jupyter.jobs import JobStatus
from nodetool_jupyter.view import View, final_text, warning_lines
from tests.kernel.conftest import Kernel, until
from tests.small_disk import fill

STALLED = "The job store can't be written; waiting for it. There is no room left on the disk"
NOISY = "import os, time\nwhile not os.path.exists({go!r}): print('x' * 20_000); time.sleep(0.02)"


def kernel_on(kernels: Callable[..., Kernel], disk: Path) -> Kernel:
    return kernels(NODETOOL_NONINTERACTIVE="0", NODETOOL_DATABASE_URL=f"sqlite:///{disk}/store/jobs.sqlite")


def fill_wholly(disk: Path) -> None:
    """Also what was set aside for the ends of jobs."""
    (disk / "store" / "jobs.sqlite.ballast").unlink()
    fill(disk)


def test_a_cell_says_that_the_store_is_full_and_one_interrupt_leaves_it(
    kernels: Callable[..., Kernel], small_disk: Path, tmp_path: Path
) -> None:
    kernel = kernel_on(kernels, small_disk)
    code = NOISY.format(go=str(tmp_path / "go"))
    cell = kernel.start(f"%%nodetool -r subprocess --progress text\n{code}")
    kernel.follow(cell, until_text="xxx")
    fill_wholly(small_disk)
    kernel.follow(cell, until_text=STALLED)
    kernel.interrupt()
    ran = kernel.follow(cell)
    assert ran.error == "Interrupted"
    assert "was asked to stop; `%nodetool wait` waits until that can be written. There is no room left" in ran.message
    (small_disk / "filler").unlink()
    kernel.run("%nodetool wait")
    assert "cancelled" in kernel.value("%nodetool jobs")


def test_a_wait_and_the_card_say_that_the_store_is_full_until_it_is_not(
    kernels: Callable[..., Kernel], small_disk: Path, tmp_path: Path
) -> None:
    kernel = kernel_on(kernels, small_disk)
    kernel.value(f"%%nodetool -r subprocess -b\n{NOISY.format(go=str(tmp_path / 'go'))}")
    fill_wholly(small_disk)
    kernel.value("from nodetool_jupyter.notebook.card import _cards")
    until(lambda: STALLED in kernel.value("print(_cards[0].state['notes'])"))
    wait = kernel.start("%nodetool wait")
    kernel.follow(wait, until_text=STALLED)
    (tmp_path / "go").touch()
    (small_disk / "filler").unlink()
    ran = kernel.follow(wait)
    assert "✔" in ran.text
    assert ran.error == ""
    assert STALLED not in kernel.value("print(_cards[0].state)")


def test_a_job_that_ended_waits_for_nothing() -> None:
    stalled = View(status=JobStatus.RUNNING, trouble="No room.")
    assert warning_lines(stalled) == ["  warning: The job store can't be written; waiting for it. No room."]
    assert "No room" not in final_text(View(status=JobStatus.COMPLETED, trouble="No room."))
