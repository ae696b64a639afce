"""Verbs over many jobs, over jobs by name, and over those that nobody wants to fail for."""

from __future__ import annotations

import threading

import pytest
from IPython.core.interactiveshell import InteractiveShell

import nodetool_jupyter
from nodetool_jupyter.errors import Interrupted, JobFailed
from nodetool_jupyter.jobs import JobStatus
from nodetool_jupyter.notebook import running, verbs
from nodetool_jupyter.notebook.completion import candidates
from nodetool_jupyter.notebook.painter import Canvas
from nodetool_jupyter.notebook.session import current
from nodetool_jupyter.view.text import view_text
from tests.conftest import HANG_GUARD_SECONDS
from tests.engine.private import until
from tests.notebook.conftest import refused


def cell(shell: InteractiveShell, options: str, code: str = "1") -> None:
    """Run a cell as a job."""
    shell.run_cell(f"%%nodetool {options}\n{code}").raise_error()


def shown(shell: InteractiveShell, capsys: pytest.CaptureFixture[str], line: str) -> str:
    """What a verb prints."""
    capsys.readouterr()
    shell.run_cell(line).raise_error()
    return capsys.readouterr().out


def test_a_list_of_jobs_that_is_cut_says_so(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "_MOST_LISTED", 2)
    cell(shell, "--name first")
    cell(shell, "--name second")
    assert "older ones" not in shown(shell, capsys, "%nodetool jobs")
    cell(shell, "--name third")
    listed = shown(shell, capsys, "%nodetool jobs")
    assert "second" in listed
    assert "first" not in listed
    assert listed.splitlines()[-1].startswith("These are the newest 2. There are older ones")


def test_a_job_is_found_by_its_name(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    cell(shell, "--name train", "print('old')")
    cell(shell, "--name 'two words'")
    assert shown(shell, capsys, "%nodetool status train").startswith("✔ train")
    assert shown(shell, capsys, "%nodetool status 'two words'").startswith("✔ two words")
    cell(shell, "--name train", "print('new')")
    assert shown(shell, capsys, "%nodetool logs train") == "new\n"
    assert shown(shell, capsys, "%nodetool logs 'two words'") == "The job wrote nothing.\n"
    assert "the beginning of an id, a name, or -1" in refused(shell, "%nodetool status trai")


def test_names_are_completed_and_only_what_goes_on_can_be_cancelled(shell: InteractiveShell) -> None:
    cell(shell, "--name train")
    cell(shell, "--name 'two words'")
    ids = {job.id[:8] for job in current().manager.find()}

    def offered(line: str) -> set[str]:
        return set(candidates(current(), line, ""))

    assert {"-1", "train", *ids} == offered("%nodetool status ")
    assert offered("%nodetool cancel ") == {"-1", "--all"}


def test_a_name_is_not_taken_for_the_beginning_of_another_jobs_id(shell: InteractiveShell) -> None:
    cell(shell, "")
    beginning = current().manager.find(limit=1)[0].id[:4]
    cell(shell, f"--name {beginning}")
    assert "Several jobs fit" in refused(shell, f"%nodetool cancel {beginning}")


def test_a_variable_of_containers_that_cannot_be_read_is_shown_and_keeps_no_other_job_from_running(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_USER", "me@example.com")
    monkeypatch.setenv("DOCKER_MAX_JOBS", "many")
    cell(shell, "")
    cell(shell, "--runner subprocess")
    for line in ("%nodetool config", "%nodetool doctor"):
        said = shown(shell, capsys, line)
        assert "! Environment variable DOCKER_USER: 'me@example.com' is no user. Write UID" in said
        assert "! Environment variable DOCKER_MAX_JOBS: 'many' is not a whole number" in said
    assert "me@example.com" not in shown(shell, capsys, "%nodetool config runner")
    assert "DOCKER_USER: 'me@example.com'" in refused(shell, "%%nodetool --runner docker\n1")
    assert "DOCKER_MAX_JOBS: 'many'" in refused(shell, "%%nodetool --runner docker --user 1\n1")


@pytest.mark.parametrize("line", ["wait", "wait -1", "wait late", "attach -1"])
def test_a_background_job_that_was_not_to_raise_is_told_of_and_fails_no_later_cell(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setenv("NODETOOL_NONINTERACTIVE", "0")
    cell(shell, "--background --no-raise --name late", "1 / 0")
    assert "late · threaded · failed" in shown(shell, capsys, f"%nodetool {line}")


def test_wait_fails_for_the_others(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODETOOL_NONINTERACTIVE", "0")
    cell(shell, "--background --no-raise", "1 / 0")
    cell(shell, "--background", "raise RuntimeError('counts')")
    error = shell.run_cell("%nodetool wait").error_in_exec
    assert isinstance(error, JobFailed)
    assert "counts" in str(error)


def test_errors_have_the_colours_that_the_shell_wants(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    def rendered() -> str:
        error = shell.run_cell("%%nodetool --runner subprocess\n1 / 0").error_in_exec
        assert isinstance(error, JobFailed)
        return "\n".join(error._render_traceback_())

    assert "\x1b" not in rendered()
    monkeypatch.setattr(shell, "colors", "linux")
    assert "\x1b[31mZeroDivisionError" in rendered()


@pytest.mark.parametrize(
    ("line", "said"), [("wait", "The jobs go on; `%nodetool cancel --all`"), ("wait -1", "goes on")]
)
def test_an_interrupt_ends_a_wait_with_one_sentence(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch, line: str, said: str
) -> None:
    def interrupted(job_id: str, timeout: float | None = None) -> None:
        raise KeyboardInterrupt

    shell.run_cell("import nodetool_jupyter as nt\nnt.run('1')").raise_error()
    monkeypatch.setattr(current().manager, "wait", interrupted)
    error = shell.run_cell(f"%nodetool {line}").error_in_exec
    assert isinstance(error, Interrupted)
    assert said in str(error)
    assert len(error._render_traceback_()) == 1


def test_a_queued_job_says_what_it_waits_for(shell: InteractiveShell) -> None:
    gate, places = threading.Event(), current().settings()["thread_pool_size"]
    names = [*("first" for _ in range(places)), "last"]
    jobs = [nodetool_jupyter.run("gate.wait(60)", name=name, inputs={"gate": gate}) for name in names]
    which = "the only place" if places == 1 else f"one of {places} places"
    said = f"○ last · threaded · queued · waits for {which} (THREAD_POOL_SIZE)\n"
    until(lambda: view_text(jobs[-1].view(), 0.0).startswith(said), "the manager has put it in the queue")
    gate.set()
    assert [job.result() for job in jobs] == [True] * len(jobs)
    assert "waits for" not in view_text(jobs[-1].view(), 0.0)


@pytest.mark.parametrize("line", ["attach -1", "logs -1 -f"])
def test_an_interrupt_while_a_look_begins_leaves_the_job_running_too(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    def interrupted(self: Canvas, *_: object) -> None:
        raise KeyboardInterrupt

    handle = shell.run_cell(
        "import nodetool_jupyter as nt\nnt.run('import time\\nwhile True: time.sleep(0.01)')"
    ).result
    monkeypatch.setattr(Canvas, "__init__", interrupted)
    error = shell.run_cell(f"%nodetool {line}").error_in_exec
    assert isinstance(error, Interrupted)
    assert "goes on" in str(error)
    assert not handle.done()


def test_an_interrupt_before_a_cell_waits_for_its_job_cancels_it(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "wait_in_cell", interrupted)
    error = shell.run_cell("%%nodetool\nimport time\nwhile True: time.sleep(0.01)").error_in_exec
    assert isinstance(error, KeyboardInterrupt)
    assert current().manager.wait(shell.user_ns["_job"].id, HANG_GUARD_SECONDS).status is JobStatus.CANCELLED
