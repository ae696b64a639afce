"""Nobody's job ends unheard, and what is wrong with the store is a finding and no end."""

from __future__ import annotations

from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from nodetool_jupyter.errors import JobCancelled, JobFailed
from nodetool_jupyter.jobs import Job
from nodetool_jupyter.notebook.session import current
from tests.conftest import HANG_GUARD_SECONDS
from tests.notebook.conftest import refused


def ended(shell: InteractiveShell, code: str) -> None:
    """Start a job that nobody looks at, and let it end."""
    shell.run_cell(f"import nodetool_jupyter as nt\nnt.run({code!r}, name='quiet');").raise_error()
    manager = current().manager
    manager.wait(manager.find(limit=1)[0].id, HANG_GUARD_SECONDS)


def test_wait_says_how_jobs_ended_that_had_ended_before_and_fails_for_a_failed_one(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    ended(shell, "1 / 0")
    ended(shell, "1")
    capsys.readouterr()
    result = shell.run_cell("%nodetool wait")
    assert isinstance(result.error_in_exec, JobFailed)
    shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == ["quiet · threaded · failed", "quiet · threaded · completed"]


def test_wait_tells_everything_once(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    ended(shell, "1 / 0")
    assert "ZeroDivisionError" in refused(shell, "%nodetool wait")
    shell.run_cell("job = nt.run('1 / 0'); job.exception();").raise_error()
    shell.run_cell("%%nodetool --no-raise\n1 / 0").raise_error()
    capsys.readouterr()
    shell.run_cell("%nodetool wait").raise_error()
    assert capsys.readouterr().out == ""


def test_a_job_that_is_cancelled_while_it_is_waited_for_fails_the_wait_and_one_of_before_does_not(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "import nodetool_jupyter as nt\nnt.run('import time; time.sleep(600)', runner='subprocess', name='long');"
    shell.run_cell(long).raise_error()
    manager = current().manager
    manager.cancel(manager.resolve("-1").id)
    manager.wait(manager.resolve("-1").id, HANG_GUARD_SECONDS)
    capsys.readouterr()
    shell.run_cell("%nodetool wait").raise_error()
    assert capsys.readouterr().out == "long · subprocess · cancelled\n"

    def cancelled_meanwhile(job_id: str, timeout: float | None = None) -> Job:
        manager.cancel(job_id)
        return wait(job_id, timeout)

    wait = manager.wait
    shell.run_cell(long).raise_error()
    monkeypatch.setattr(manager, "wait", cancelled_meanwhile)
    assert isinstance(shell.run_cell("%nodetool wait").error_in_exec, JobCancelled)


def test_wait_takes_no_values_that_a_handle_was_to_have(shell: InteractiveShell) -> None:
    shell.run_cell("import nodetool_jupyter as nt\nnt.run('y = 1', runner='subprocess', outputs=['y']);").raise_error()
    shell.run_cell("%nodetool wait").raise_error()
    assert "y" not in shell.user_ns


@pytest.mark.parametrize("url", ["moon://me:hunter2@there?password=hunter2", "sqlite:////proc/no/jobs.sqlite"])
def test_doctor_reports_a_store_that_can_not_be_used(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("NODETOOL_DATABASE_URL", url)
    shell.run_cell("%nodetool doctor").raise_error()
    shown = capsys.readouterr().out
    assert "! No job can be run until this is mended: " in shown
    assert "NODETOOL_DATABASE_URL" in shown
    assert "ok subprocess" in shown
    assert "hunter2" not in shown


def test_doctor_reports_a_setting_that_can_not_be_read(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THREAD_POOL_SIZE", "many")
    shell.run_cell("%nodetool doctor").raise_error()
    assert "! Environment variable THREAD_POOL_SIZE: 'many'" in capsys.readouterr().out


def test_doctor_reports_a_file_that_is_no_database(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "jobs.sqlite").mkdir()
    monkeypatch.setenv("NODETOOL_DATABASE_URL", f"sqlite:///{tmp_path}/jobs.sqlite")
    shell.run_cell("%nodetool doctor").raise_error()
    assert "! No job can be run until this is mended: " in capsys.readouterr().out
