"""Cells and verbs in IPython, on the real threaded and subprocess runners."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from nodetool_jupyter.errors import InvalidRequest, JobFailed, ValueCannotTravel
from nodetool_jupyter.notebook.session import current
from tests.notebook.conftest import refused

RUNNERS = ["threaded", "subprocess"]


def run(shell: InteractiveShell, cell: str) -> None:
    result = shell.run_cell(cell)
    result.raise_error()


def failure(shell: InteractiveShell, cell: str) -> Any:
    return shell.run_cell(cell).error_in_exec


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_cell_keeps_working_as_a_cell(
    shell: InteractiveShell, runner: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(shell, f"%%nodetool -r {runner}\nprint('out')\nimport sys; print('err', file=sys.stderr)\n6 * 7")
    shown = capsys.readouterr()
    assert shown.out == f"out\n42\n✔ cell · {runner}\n"
    assert shown.err == "err\n"


def test_variables_go_in_and_come_back(shell: InteractiveShell, runner: str) -> None:
    run(shell, "import math\nrows = [1, 4, 9]\ndef root(x): return math.sqrt(x) + SHIFT\nSHIFT = 0.5")
    run(shell, f"%%nodetool -r {runner} --out roots\nroots = [root(row) for row in rows]\nmath.pi")
    assert shell.user_ns["roots"] == [1.5, 2.5, 3.5]


def test_the_handle_is_bound(shell: InteractiveShell, runner: str) -> None:
    run(shell, f"%%nodetool -r {runner} --job mine\n[1, 2]")
    assert shell.user_ns["mine"] is shell.user_ns["_job"]
    assert shell.user_ns["mine"].result() == [1, 2]


def test_a_cell_fails_when_its_job_fails(shell: InteractiveShell, runner: str) -> None:
    error = failure(shell, f"%%nodetool -r {runner}\nx = 1\n\nx / 0")
    assert isinstance(error, JobFailed)
    assert str(error) == "ZeroDivisionError: division by zero"
    shown = "\n".join(error._render_traceback_())
    assert "x / 0" in shown
    assert "4" in shown  # the line as the page numbers it: the first one is the magic's
    assert "JobFailed" in shown.splitlines()[-1]
    assert "nodetool_jupyter" not in shown


def test_no_raise_does_not_fail_and_says_why(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%%nodetool --no-raise\nprint('before')\n1 / 0")
    assert shell.user_ns["_job"].status == "failed"
    shown = capsys.readouterr()
    assert shown.out.startswith("before\n")
    assert shown.err == "JobFailed: ZeroDivisionError: division by zero\n"


def test_magics_commands_and_await_work_in_a_job(
    shell: InteractiveShell, runner: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(shell, "word = 'hello'")
    run(shell, f"%%nodetool -r {runner} -i word\n!echo $word {{word}}\nimport asyncio\nawait asyncio.sleep(0)\n'end'")
    assert "hello hello" in capsys.readouterr().out


def test_background_waits_at_the_end_of_its_cell_when_noninteractive(shell: InteractiveShell) -> None:
    run(shell, "%%nodetool -r subprocess -b\n'done'")
    assert shell.user_ns["_job"].status == "completed"


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ("%%nodetool --foo\n1", "There is no option '--foo'."),
        ("%%nodetool -m 2x\n1", "--memory '2x' is not a size."),
        ("%%nodetool\n\n  ", "The cell is empty below %%nodetool."),
        ("%%nodetool -i nope\n1", "--in names 'nope', and the kernel has no such variable."),
        ("%%nodetool -r podman\n1", "There is no runner 'podman'. Choose one of: docker, subprocess, threaded."),
        ("%%nodetool\nx = 1\nx = = 2", "Line 3 of the cell is not valid Python: invalid syntax."),
        ("%%nodetool -e NOT_THERE -r subprocess\n1", "-e NOT_THERE: the kernel's environment has no 'NOT_THERE'."),
        ("%%nodetool --secret NOT_THERE -r subprocess\n1", "--secret NOT_THERE:"),
        ("%%nodetool -r threaded -m 1g\n1", "Runner 'threaded' can't hold --memory here"),
        ("%%nodetool --profile untrusted\n1", "Untrusted jobs cannot run in the kernel's own process."),
        ("%nodetool", "%nodetool wants a verb: jobs, status"),
        ("%nodetool stop", "%nodetool has no verb 'stop'."),
        ("%nodetool status", "%nodetool status wants a job"),
        ("%nodetool status zz", "There is no job 'zz'."),
        ("%nodetool status -5", "There is no job '-5'."),
        ("%nodetool config nope 1", "There is no setting 'nope'."),
        ("%nodetool config runner moon", "runner 'moon' is not one of threaded, subprocess, docker."),
        ("%nodetool config timeout soon", "timeout 'soon' is not a duration."),
        ("%nodetool prune --older-than then", "--older-than 'then' is not a duration."),
        ("%nodetool jobs now", "%nodetool jobs takes nothing more"),
        ("%nodetool rerun", "%nodetool rerun wants a job"),
    ],
)
def test_a_mistake_is_one_sentence_and_starts_nothing(shell: InteractiveShell, cell: str, sentence: str) -> None:
    said = refused(shell, cell)
    assert sentence in said
    assert said.count("Nothing was started.") <= 1
    assert "Nothing was started." in said or not cell.startswith("%%") or "Runner 'threaded' can't" in said
    assert current().manager.find() == []


def test_what_starts_nothing_anyway_does_not_say_so(shell: InteractiveShell) -> None:
    assert refused(shell, "%nodetool config docker_image 'a b'").endswith("as in python:3.12-slim.")


def test_a_refusal_is_shown_without_our_frames(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run_cell("%%nodetool --foo\n1")
    shown = capsys.readouterr()
    assert len((shown.out + shown.err).strip().splitlines()) == 1


def test_a_value_that_can_not_travel_is_refused_before_the_start(shell: InteractiveShell) -> None:
    run(shell, "import threading\nlock = threading.Lock()")
    error = failure(shell, "%%nodetool -r subprocess\nlock")
    assert isinstance(error, ValueCannotTravel)
    assert str(error).endswith("Nothing was started.")
    assert "Variable 'lock' (_thread.lock" in str(error)
    assert current().manager.find() == []


def test_a_thread_sends_nothing_and_so_takes_everything(shell: InteractiveShell) -> None:
    run(shell, "import threading\nlock = threading.Lock()")
    run(shell, "%%nodetool\nmine = lock.locked()")
    assert shell.user_ns["mine"] is False


def test_a_dry_run_says_what_would_happen_and_starts_nothing(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    run(shell, "import math\nrows = [1, 2]")
    run(shell, "%%nodetool --dry-run -r subprocess -t 5m -e A=1 -o y\ny = math.fsum(rows)")
    shown = capsys.readouterr().out
    for part in (
        "runner      subprocess",
        "rows (list",
        "math",
        "time 5:00 (timer)",
        "y, the last",
        "Nothing was started.",
    ):
        assert part in shown
    assert current().manager.find() == []


def test_environment_and_secrets_reach_the_job_and_the_secret_is_not_stored(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COPIED", "from the kernel")
    monkeypatch.setenv("TOKEN_OF_MINE", "s3cr3t-value")
    (tmp_path / "e").write_text("FILED=1\n")
    run(
        shell,
        f"%%nodetool -r subprocess -e SET=x -e COPIED --env-file {tmp_path}/e --secret TOKEN_OF_MINE\n"
        "import os\n[os.environ[n] for n in ('SET', 'COPIED', 'FILED')] + [len(os.environ['TOKEN_OF_MINE'])]",
    )
    job = shell.user_ns["_job"]
    assert job.result() == ["x", "from the kernel", "1", 12]
    assert "s3cr3t-value" not in str(job.job)


def test_a_missing_variable_that_the_kernel_has_is_explained(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_URL", "x")
    error = failure(shell, "%%nodetool -r subprocess\nimport os\nos.environ['MY_API_URL']")
    assert str(error).endswith("pass it with -e MY_API_URL.")
    assert "pass it" not in str(failure(shell, "%%nodetool -r subprocess\n{}['MY_OTHER']"))


def test_output_beyond_the_limit_is_cut_and_says_where_the_rest_is(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    run(shell, "%%nodetool -r subprocess --max-output 1k\nfor n in range(1000): print(n, 'x' * 10)\n'the end'")
    shown = capsys.readouterr()
    assert len(shown.out) < 1200
    assert "Output beyond 1 KiB is not shown. `%nodetool logs -1` shows it." in shown.err
    assert "'the end'" in shown.out
    run(shell, "%nodetool logs -1")
    assert capsys.readouterr().out.count("\n") == 1000


def test_the_log_has_whole_lines(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%%nodetool --progress none\nprint('\\x1b[31m' + 'x' * 25_000 + '\\x1b[0m')")
    capsys.readouterr()
    for line in ("%nodetool logs -1", "%nodetool logs -1 -f"):
        run(shell, line)
        assert capsys.readouterr().out.count("x") == 25_000


def test_another_interpreter_runs_the_cell(shell: InteractiveShell, tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.symlink_to(os.path.realpath(sys.executable))
    run(shell, "rows = [1, 2]\nimport json")
    run(shell, f"%%nodetool -r subprocess --python {other}\nimport sys\njson.dumps([sys.executable, rows])")
    assert shell.user_ns["_job"].result() == f'["{other}", [1, 2]]'


def test_the_kernels_choices_apply_and_say_where_they_come_from(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    run(shell, "%nodetool config runner subprocess")
    run(shell, "%%nodetool\nimport os\nos.getpid()")
    assert shell.user_ns["_job"].result() != os.getpid()
    capsys.readouterr()
    run(shell, "%nodetool config")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("runner ")]
    assert line.split()[:3] == ["runner", "subprocess", "config"]
    run(shell, "%nodetool config docker_memory 100m")
    assert "100 MiB" in capsys.readouterr().out


def test_a_function_with_a_command_in_it_can_be_sent(shell: InteractiveShell) -> None:
    run(shell, "def said(word):\n    lines = !echo {word}\n    return list(lines)")
    run(shell, "%%nodetool -r subprocess --out lines\nlines = said('there')")
    assert shell.user_ns["lines"] == ["there"]


def test_traitlets_are_defaults_too(shell: InteractiveShell) -> None:
    run(shell, "%config NodetoolMagics.timeout = '10s'\n%config NodetoolMagics.runner = 'subprocess'")
    run(shell, "%%nodetool\n1")
    request = shell.user_ns["_job"].job.request
    assert (request.runner, request.limits.wall_seconds) == ("subprocess", 10)
    run(shell, "%config NodetoolMagics.timeout = 'soon'")
    assert "c.NodetoolMagics.timeout = 'soon' is not a duration" in refused(shell, "%%nodetool\n1")


def test_an_unknown_runner_is_refused_by_where_it_was_set(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = "is not one of threaded, subprocess, docker. Nothing was started."
    monkeypatch.setenv("NODETOOL_RUNNER", "moon")
    assert refused(shell, "%%nodetool\n1") == f"Environment variable NODETOOL_RUNNER: 'moon' {known}"
    run(shell, "%config NodetoolMagics.runner = 'mars'")
    assert refused(shell, "%%nodetool\n1") == f"c.NodetoolMagics.runner = 'mars' {known}"


def test_a_variable_set_in_the_notebook_applies_to_the_next_cell(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(shell, "%%nodetool\n1")
    monkeypatch.setenv("NODETOOL_RUNNER", "subprocess")
    run(shell, "%%nodetool\n1")
    assert shell.user_ns["_job"].job.request.runner == "subprocess"
    monkeypatch.setenv("NODETOOL_JOB_TIMEOUT", "soon")
    assert "NODETOOL_JOB_TIMEOUT" in refused(shell, "%%nodetool\n1")


def test_what_is_fixed_at_the_start_can_not_be_changed_later(shell: InteractiveShell) -> None:
    run(shell, "%nodetool config thread_pool_size 3")
    run(shell, "%%nodetool\n1")
    assert current().manager.settings["thread_pool_size"] == 3
    for name in ("thread_pool_size", "max_workflow_threads", "docker_max_jobs"):
        assert f"{name} is fixed once a job has run" in refused(shell, f"%nodetool config {name} 4")


def test_verbs_look_after_jobs(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%%nodetool --name first\nprint('one')\n11")
    run(shell, "%%nodetool --name second --no-raise\n1 / 0")
    capsys.readouterr()
    run(shell, "%nodetool jobs")
    assert [line.split() for line in capsys.readouterr().out.splitlines()][1:] == [
        ["second", "threaded", "failed", "(error)"],
        ["first", "threaded", "completed"],
    ]
    run(shell, "%nodetool logs -2")
    assert capsys.readouterr().out == "one\n"
    run(shell, "%nodetool logs -2 -f")
    assert capsys.readouterr().out == "one\n11\n"
    assert shell.run_line_magic("nodetool", "result -2") == 11
    run(shell, "%nodetool attach -2")
    assert capsys.readouterr().out == "one\n11\n✔ first · threaded\n"
    run(shell, "%nodetool status -1")
    assert "ZeroDivisionError" in capsys.readouterr().out
    run(shell, "%nodetool cancel -1")
    assert capsys.readouterr().out == "Job second had ended already: failed.\n"
    assert isinstance(failure(shell, "%nodetool wait -1"), JobFailed)
    capsys.readouterr()
    run(shell, "%nodetool cancel --all")
    assert capsys.readouterr().out == "0 jobs are being cancelled.\n"


def test_jobs_are_found_by_their_labels(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    for name, line in (("one", "--label a=1 --label b=2"), ("two", "--label a=1"), ("three", "")):
        run(shell, f"%%nodetool --name {name} {line}\n1")
    capsys.readouterr()
    for asked, found in (("--label a=1", "two one"), ("--label=a=1 --label b=2", "one"), ("--label a=2", "")):
        run(shell, f"%nodetool jobs {asked}")
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == found.split()
    assert "--label wants a name and a value" in refused(shell, "%nodetool jobs --label")


def test_rerun_takes_options_and_the_variables_as_they_are_now(shell: InteractiveShell) -> None:
    run(shell, "n = 1")
    run(shell, "%%nodetool -r subprocess --out m\nm = n * 10")
    first = shell.user_ns["_job"]
    run(shell, "n = 2")
    run(shell, "%nodetool rerun -1 --timeout 1m --name again")
    request = shell.user_ns["_job"].job.request
    assert shell.user_ns["m"] == 20
    assert (request.limits.wall_seconds, request.name, request.rerun_of) == (60, "again", first.id)
    del shell.user_ns["n"]
    assert "needs the variable 'n'" in refused(shell, "%nodetool rerun -1")


def test_prune_and_doctor_report(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%%nodetool\n1")
    capsys.readouterr()
    run(shell, "%nodetool prune --older-than 7d")
    assert "0 jobs that ended more than 7d ago removed." in capsys.readouterr().out
    run(shell, "%nodetool prune --older-than 0")
    assert "1 job that ended more than 0 ago removed." in capsys.readouterr().out
    assert current().manager.find() == []
    run(shell, "%nodetool doctor")
    shown = capsys.readouterr().out
    for part in ("ok threaded", "ok subprocess", "--timeout", "--pids-limit", "cpu_seconds", "ipykernel"):
        assert part in shown
    assert "wall_seconds" not in shown
    assert "docker:" not in shown
    assert shown.count("not available") == 1


def test_unloading_stops_jobs_and_takes_the_magics_away(shell: InteractiveShell) -> None:
    run(shell, "%%nodetool\n1")
    manager = current().manager
    run(shell, "%reload_ext nodetool_jupyter")
    assert current().manager is not manager
    with pytest.raises(InvalidRequest, match="closed"):
        manager.find()


def test_what_the_same_cell_took_the_last_time_is_expected_again(shell: InteractiveShell) -> None:
    run(shell, "%%nodetool\n40 + 2")
    first = shell.user_ns["_job"].job
    run(shell, "%%nodetool -r subprocess\n40 + 2")
    run(shell, "%%nodetool --no-raise\n1 / 0")
    assert current().expected_seconds(first) is not None
    assert current().expected_seconds(shell.user_ns["_job"].job) is None


def test_a_limit_that_is_not_held_on_request_is_said(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    run(shell, "%%nodetool -m 1g --best-effort\n1")
    assert capsys.readouterr().out == "1\n✔ cell · threaded\n  warning: Not held here: memory.\n"


def test_what_the_manager_found_at_its_start_is_said_once(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    current().manager.warnings.append("The store was damaged and set aside.")
    run(shell, "%%nodetool\n1")
    run(shell, "%%nodetool\n1")
    assert capsys.readouterr().err == "The store was damaged and set aside.\n"


def test_rerun_takes_environment_and_labels_and_refuses_what_it_cannot_take(shell: InteractiveShell) -> None:
    run(shell, "%%nodetool -r subprocess --label a=1\nimport os\nprint(os.environ.get('OTHER'))")
    run(shell, "%nodetool rerun -1 -e OTHER=new --label b=2 --fresh")
    handle = shell.user_ns["_job"]
    assert handle.logs() == "new\n"
    assert handle.job.request.labels == {"a": "1", "b": "2"}
    assert handle.job.request.fresh
    assert "rerun takes no --dry-run" in refused(shell, "%nodetool rerun -1 --dry-run")
    assert "rerun takes no --in" in refused(shell, "%nodetool rerun -1 --in n")
    assert shell.user_ns["_job"] is handle
