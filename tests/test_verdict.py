"""From the facts of an end to its words."""

from __future__ import annotations

import msgspec
import pytest

from nodetool_jupyter.events import Exit
from nodetool_jupyter.frames import Raised, Returned
from nodetool_jupyter.jobs import JobStatus, Reason, ResourceLimits
from nodetool_jupyter.verdict import StopCause, verdict

NO_LIMITS = ResourceLimits()
MEMORY = ResourceLimits(memory_bytes=2 << 30)
RETURNED = Returned()
RAISED = Raised("ValueError", "no")


@pytest.mark.parametrize(
    ("terminal", "exit_event", "limits", "reason", "part"),
    [
        (RAISED, Exit(code=1), NO_LIMITS, Reason.ERROR, "ValueError: no"),
        (Raised("KeyboardInterrupt", ""), Exit(code=1), NO_LIMITS, Reason.ERROR, "KeyboardInterrupt"),
        (None, Exit(code=0), NO_LIMITS, Reason.NO_RESULT, "NT-R01"),
        (None, Exit(code=3), NO_LIMITS, Reason.CRASHED, "exit code 3 without a result"),
        (RETURNED, Exit(code=3), NO_LIMITS, Reason.CRASHED, "exit code 3 after its result"),
        (None, Exit(cause="killed", signal="SIGKILL"), NO_LIMITS, Reason.KILLED, "from outside by SIGKILL"),
        (None, Exit(cause="crashed", signal="SIGSEGV"), NO_LIMITS, Reason.CRASHED, "Segmentation fault"),
        (None, Exit(cause="out_of_memory", signal="SIGKILL"), MEMORY, Reason.OUT_OF_MEMORY, "2 GiB reached"),
        (None, Exit(cause="out_of_memory", signal="SIGKILL"), MEMORY, Reason.OUT_OF_MEMORY, "--memory 4g"),
        (Raised("MemoryError", ""), Exit(code=1), MEMORY, Reason.ERROR, "MemoryError"),
        (Raised("MemoryError", ""), Exit(code=1), NO_LIMITS, Reason.ERROR, "MemoryError"),
        (None, Exit(cause="limit", limit="pids"), ResourceLimits(pids=64), Reason.LIMIT, "64 processes"),
        (None, Exit(cause="limit", limit="cpu_seconds"), ResourceLimits(cpu_seconds=5), Reason.LIMIT, "5 s"),
        (None, Exit(cause="supervisor_lost"), NO_LIMITS, Reason.LOST, "supervises"),
        (None, Exit(cause="unkillable", detail="pid 7 is in state D."), NO_LIMITS, Reason.UNKILLABLE, "pid 7"),
    ],
)
def test_a_failure_has_a_reason_and_a_sentence(
    terminal: Returned | Raised | None, exit_event: Exit, limits: ResourceLimits, reason: Reason, part: str
) -> None:
    found = verdict(terminal, exit_event, limits=limits)
    assert (found.status, found.reason) == (JobStatus.FAILED, reason)
    assert part in found.message


RLIMITS = {"memory_bytes": "RLIMIT_DATA and a watch", "open_files": "RLIMIT_NOFILE", "file_size_bytes": "RLIMIT_FSIZE"}
LIMITS = ResourceLimits(memory_bytes=2 << 30, open_files=64, file_size_bytes=1 << 20)
REFUSED = Exit(
    code=1, limit="pids", detail="The limit of 64 processes and threads was reached once; --pids-limit raises it."
)
BEHIND_AN_ERROR = [
    (
        Raised("MemoryError", ""),
        Exit(code=1),
        Reason.OUT_OF_MEMORY,
        "MemoryError. The limit of 2 GiB of memory",
        "--memory 4g",
    ),
    (
        Raised("_ArrayMemoryError", "Unable"),
        Exit(code=1),
        Reason.OUT_OF_MEMORY,
        "Unable. The limit of 2 GiB",
        "--memory 4g",
    ),
    (
        Raised("OSError", "[Errno 12] Cannot"),
        Exit(code=1),
        Reason.OUT_OF_MEMORY,
        "Cannot. The limit of 2 GiB",
        "--memory 4g",
    ),
    (
        Raised("OSError", "[Errno 24] Too many"),
        Exit(code=1),
        Reason.ERROR,
        "many. The limit of 64 open files",
        "open_files=128",
    ),
    (
        Raised("OSError", "[Errno 27] File"),
        Exit(code=1),
        Reason.ERROR,
        "File. The limit of 1 MiB",
        "file_size_bytes=2097152",
    ),
    (
        Raised("BlockingIOError", "[Errno 11] Resource"),
        REFUSED,
        Reason.ERROR,
        "Resource. The limit of 64 p",
        "--pids-limit",
    ),
    (
        Raised("RuntimeError", "can't start new thread"),
        REFUSED,
        Reason.ERROR,
        "thread. The limit of 64 p",
        "--pids-limit",
    ),
]


@pytest.mark.parametrize(("raised", "exit_event", "reason", "reached", "remedy"), BEHIND_AN_ERROR)
@pytest.mark.parametrize("stopped", [None, StopCause.OVERDUE])
def test_an_error_that_a_limit_made_names_the_limit_and_what_raises_it(
    raised: Raised, exit_event: Exit, reason: Reason, reached: str, remedy: str, stopped: StopCause | None
) -> None:
    found = verdict(raised, exit_event, limits=LIMITS, held=RLIMITS, stopped=stopped)
    assert found.reason is reason
    assert reached in found.message
    assert remedy in found.message


@pytest.mark.parametrize("raised", [each[0] for each in BEHIND_AN_ERROR])
@pytest.mark.parametrize("held", [{}, {"memory_bytes": "cgroup v2 memory", "pids": "cgroup v2 pids"}])
def test_a_limit_that_was_not_in_force_or_not_reached_is_not_blamed(raised: Raised, held: dict[str, str]) -> None:
    found = verdict(raised, Exit(code=1), limits=LIMITS, held=held)
    assert (found.reason, found.message) == (Reason.ERROR, f"{raised.ename}: {raised.evalue}".rstrip(": "))


def test_only_a_result_and_exit_0_make_a_success() -> None:
    assert verdict(RETURNED, Exit(code=0), limits=NO_LIMITS).status is JobStatus.COMPLETED


def test_a_child_of_the_job_that_ran_out_of_memory_is_mentioned_in_a_success() -> None:
    found = verdict(RETURNED, Exit(code=0, cause="out_of_memory"), limits=MEMORY)
    assert found.status is JobStatus.COMPLETED
    assert "memory" in found.message


@pytest.mark.parametrize("terminal", [None, RETURNED, RAISED])
@pytest.mark.parametrize("exit_event", [Exit(code=0), Exit(code=1), Exit(signal="SIGKILL", cause="killed")])
def test_a_cancelled_job_is_cancelled_however_its_worker_ended(terminal: Returned | None, exit_event: Exit) -> None:
    if isinstance(terminal, Returned) and exit_event.code == 0:
        return
    found = verdict(terminal, exit_event, limits=NO_LIMITS, stopped=StopCause.CANCEL)
    assert (found.status, found.reason) == (JobStatus.CANCELLED, None)


@pytest.mark.parametrize(
    ("seconds", "reached", "remedy"),
    [
        (30.0, "30.0 s", "--timeout 60s."),
        (300.0, "5:00", "--timeout 10m."),
        (0.001, "limit 1 ms reached", "--timeout 2ms."),
        (0.5, "0.50 s", "--timeout 1s."),
    ],
)
def test_a_time_limit_names_itself_and_twice_its_length(seconds: float, reached: str, remedy: str) -> None:
    limits = ResourceLimits(wall_seconds=seconds)
    found = verdict(None, Exit(signal="SIGTERM"), limits=limits, stopped=StopCause.TIMEOUT)
    assert found.reason is Reason.TIMEOUT
    assert reached in found.message
    assert remedy in found.message


def test_a_process_that_stays_after_its_result_has_no_proven_result() -> None:
    found = verdict(RETURNED, Exit(signal="SIGKILL"), limits=NO_LIMITS, stopped=StopCause.OVERDUE)
    assert found.reason is Reason.NO_RESULT


def test_a_protocol_error_gives_its_own_sentence() -> None:
    found = verdict(None, Exit(), limits=NO_LIMITS, stopped=StopCause.PROTOCOL, complaint="It sent nonsense.")
    assert (found.reason, found.message) == (Reason.PROTOCOL, "It sent nonsense.")


def test_a_limit_of_the_profile_is_named_with_its_value() -> None:
    ended = Exit(cause="limit", limit="pids", signal="SIGKILL", detail="The profile's limit is 64 processes.")
    found = verdict(None, ended, limits=ResourceLimits())
    assert found.reason is Reason.LIMIT
    assert found.message == "Killed by a limit. The profile's limit is 64 processes. Rerun with a higher --pids-limit."


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("file_size_bytes", "Killed: file size limit 1 MiB reached. Rerun with Limits(file_size_bytes=2097152)."),
        ("cpu_seconds", "Killed: processor time limit 3 s reached. Rerun with Limits(cpu_seconds=6)."),
    ],
)
def test_a_limit_without_an_option_is_raised_as_python_has_it(limit: str, message: str) -> None:
    asked = msgspec.structs.replace(LIMITS, cpu_seconds=3)
    assert verdict(None, Exit(cause="limit", limit=limit, signal="SIGKILL"), limits=asked).message == message
