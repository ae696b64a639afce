"""Untrusted code in the sandboxed process: what it can't do, and that it is a job like any other."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from nodetool_jupyter import sandbox
from nodetool_jupyter.config import usable_cpus
from nodetool_jupyter.errors import InvalidRequest, LimitNotHeld, ProfileRefused
from nodetool_jupyter.events import Stream
from nodetool_jupyter.frames import Raised, Report, Returned, Value
from nodetool_jupyter.jobs import CodeWork, JobRequest, Profile, ResourceLimits
from nodetool_jupyter.runners.base import Worker
from nodetool_jupyter.runners.subprocess import SubprocessRunner
from tests.components import require
from tests.runners.processes import HANG_GUARD_SECONDS, Outcome, Place, stop_at
from tests.sandbox.attacks import attack


def run(place: Place, code: str, **fields: object) -> Outcome:
    return place.run(code, profile=Profile.UNTRUSTED, **fields)  # type: ignore[arg-type]


def test_every_attack_is_denied(place: Place, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"users": "/etc/passwd", "the system's sockets": "/run", "control groups": "/sys/fs/cgroup"}
    with attack(tmp_path, monkeypatch, **more) as made:
        found = run(place, made.code, outputs=("table",), cwd=str(tmp_path))
    assert isinstance(found.terminal, Returned), (found.terminal, found.text("stderr"))
    table = found.value("table")
    assert isinstance(table, Value)
    assert json.loads(bytes(table.body)) == made.table


def test_isolation_names_the_boundary_and_every_limit(place: Place, way: str) -> None:
    found = run(place, "1").isolation
    assert (found.profile, found.boundary, found.not_held) == ("untrusted", "bubblewrap", ())
    assert found.held.keys() >= {"memory_bytes", "pids", "cpus", "open_files", "file_size_bytes"}
    assert found.details["uid"] == 65534
    assert found.details["network"] == "none"
    assert found.details["start"] == "new interpreter"


def test_values_go_in_and_plain_data_comes_back(place: Place, way: str) -> None:
    found = run(
        place, "import os\nx = [1, {'a': None}]\nhome = [os.getcwd(), os.environ['HOME']]", outputs=("x", "home")
    )
    values = {v.name: (v.format, bytes(v.body)) for v in found.reports if isinstance(v, Value) and v.name}
    assert values == {"x": ("json", b'[1,{"a":null}]'), "home": ("json", b'["/tmp","/tmp"]')}
    assert found.exit.code == 0


def test_shared_memory_that_is_full_is_told(place: Place) -> None:
    code = "import mmap, os\nfile = os.open('/dev/shm/x', os.O_CREAT | os.O_RDWR)\nos.truncate(file, 16 << 20)\n"
    found = run(place, f"{code}mmap.mmap(file, 16 << 20)[:] = bytes(16 << 20)")
    assert found.exit.signal == "SIGBUS"
    assert "/dev/shm is full: it has 8 MiB in the sandbox. Share less, or rerun with -r docker" in found.exit.detail


def test_what_only_pickle_could_send_is_refused_by_name(place: Place) -> None:
    end = run(place, "class A: pass\nx = A()", outputs=("x",)).terminal
    assert isinstance(end, Raised)
    assert "'x'" in end.evalue
    assert "--profile trusted" in end.evalue


def test_asked_for_variables_and_secrets_are_the_only_ones_of_the_kernel(place: Place) -> None:
    code = "import os\nnames = sorted(os.environ)\nsaid = os.environ['ASKED']"
    found = run(place, code, env={"ASKED": "yes"}, outputs=("names", "said"), environ={"ASKED": "yes", "OTHER": "no"})
    names, said = (json.loads(bytes(found.value(name).body)) for name in ("names", "said"))  # type: ignore[attr-defined]
    assert said == "yes"
    assert "OTHER" not in names
    assert {name for name in names if name.startswith("NODETOOL")} == {"NODETOOL_JOB_ID"}


@pytest.mark.parametrize(
    ("code", "cause", "signal", "exit_code"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "killed", "SIGKILL", None),
        ("import os\nos.abort()", "crashed", "SIGABRT", None),
        ("import ctypes\nctypes.string_at(0)", "crashed", "SIGSEGV", None),
        ("import os\nos._exit(7)", "", None, 7),
        ("raise ValueError", "", None, 1),
    ],
)
def test_how_the_code_ended_is_told_through_bubblewrap(
    place: Place, code: str, cause: str, signal: str | None, exit_code: int | None
) -> None:
    found = run(place, code).exit
    assert (found.cause, found.signal, found.code) == (cause, signal, exit_code)


def test_a_stop_interrupts_the_code_inside(place: Place, way: str) -> None:
    code = "import time\ntry:\n  print('ready')\n  time.sleep(600)\nexcept KeyboardInterrupt:\n  print('interrupted')"
    found = run(place, code, on_report=stop_at("ready\n", 2 * HANG_GUARD_SECONDS))
    assert found.text() == "ready\ninterrupted\n"
    assert [step.signal for step in found.exit.sent] == ["SIGINT"]
    assert found.exit.code == 0


def test_a_stop_ends_daemons_and_what_ignores_it(place: Place, way: str) -> None:
    code = """
import os, signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.environ.clear()
        time.sleep(600)
    os._exit(0)
os.wait()
print("ready")
while True:
    time.sleep(600)
"""
    found = run(place, code, on_report=stop_at("ready", 0.2))
    assert [step.signal for step in found.exit.sent] == ["SIGINT", "SIGTERM", "SIGKILL"]
    assert found.exit.signal == "SIGKILL"
    assert found.exit.processes_reaped >= 3


def test_a_daemon_does_not_outlive_its_job(place: Place) -> None:
    code = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    os.closerange(1, 64)\n    time.sleep(600)"
    assert run(place, code).exit.code == 0


def test_memory_is_bounded(place: Place, way: str) -> None:
    found = run(place, "kept = []\nwhile True:\n    kept.append(bytearray(8 << 20))")
    if place.grouped:
        assert found.exit.cause == "out_of_memory"
        assert "512 MiB" in found.exit.detail
    else:
        assert isinstance(found.terminal, Raised)
        assert found.terminal.ename == "MemoryError"


def test_a_fork_bomb_is_bounded_and_ends(place: Place, way: str) -> None:
    code = """
import os, signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready")
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.01)
"""

    def stop(worker: Worker, report: Report) -> None:
        if place.grouped and isinstance(report, Stream):
            worker.stop(0.2)

    found = run(place, code, on_report=stop).exit
    assert found.signal == "SIGKILL"
    if place.grouped:
        assert found.processes_reaped <= 64
    else:
        assert (found.cause, found.limit) == ("limit", "pids")
        assert found.detail == "The profile's limit is 64 processes and threads."


def test_more_than_the_machine_has_is_refused() -> None:
    for limits, words in (
        (ResourceLimits(memory_bytes=1 << 50), "--memory 1024 TiB is more than"),
        (ResourceLimits(cpus=100_000), "--cpus 100000 is more than"),
    ):
        request = JobRequest(work=CodeWork("1"), profile=Profile.UNTRUSTED, limits=limits)
        with pytest.raises(InvalidRequest, match=words):
            SubprocessRunner().check(request)


def test_no_limit_of_the_profile_is_given_up_for_best_effort() -> None:
    limits = ResourceLimits(cpus=0.5, best_effort=True)
    with pytest.raises(LimitNotHeld, match=r"can't hold --cpus here") as refused:
        SubprocessRunner(use_cgroups=False).check(
            JobRequest(work=CodeWork("1"), profile=Profile.UNTRUSTED, limits=limits)
        )
    assert "--best-effort" not in str(refused.value)


def test_folders_of_the_person_are_hidden_where_they_lie_in_the_system(place: Place, way: str) -> None:
    hidden = "/usr/share/doc"
    code = f"import os\nfound = [os.listdir('/usr/share'), os.listdir('{hidden}'), os.access('{hidden}', os.W_OK)]"
    found = run(place, code, outputs=("found",), cwd=hidden)
    beside, inside, writable = json.loads(bytes(found.value("found").body))  # type: ignore[attr-defined]
    assert len(beside) > 1
    assert (inside, writable) == ([], False)


def refusal(monkeypatch: pytest.MonkeyPatch, **fields: object) -> str:
    with pytest.raises(ProfileRefused) as refused:
        SubprocessRunner().check(JobRequest(work=CodeWork("1"), profile=Profile.UNTRUSTED, **fields))  # type: ignore[arg-type]
    assert refused.value.code == "NT-S02"
    assert "Nothing was started." in str(refused.value)
    return str(refused.value)


def test_a_folder_that_can_not_be_hidden_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"Python needs {sys.prefix!r}, and files of yours lie there" in refusal(monkeypatch, cwd=sys.prefix)


def test_a_link_does_not_show_the_notebook_s_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "real" / "notebooks").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ProfileRefused, match="files of yours lie there"):
        sandbox.sandbox(sys.executable, [str(tmp_path / "link")], cwd=str(tmp_path / "real" / "notebooks"))


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'bwrap: Unknown option --disable-userns' >&2; exit 1", ["Unknown option", "bubblewrap 0.8"]),
        (
            "echo 'bwrap: No permissions to create new namespace' >&2; exit 1",
            ["No permissions to create new namespace", "user namespaces", "--runner docker"],
        ),
        ("exit 3", ["it ended with 3"]),
        ('while [ "$1" != -- ]; do shift; done; shift; exec "$@"', ["in the one that bubblewrap made"]),
    ],
)
def test_a_sandbox_that_is_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, words: list[str]
) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    said = refusal(monkeypatch)
    for word in words:
        assert word in said


def test_another_interpreter_runs_inside(place: Place, way: str) -> None:
    other = require("Debian's Python", shutil.which("python3", path="/usr/bin"), "apt-get install python3")
    found = run(place, "import sys\nprint(sys.prefix)", python=other)
    assert found.text() == "/usr\n"


def test_what_lies_in_a_seen_folder_is_seen_unless_it_is_hidden() -> None:
    box = sandbox.Sandbox((), seen=("/usr", "/home/me/project/.venv"), hidden=("/usr/src/app",))
    seen = {path: box.sees(path) for path in ("/usr/lib", "/usr/src/app/x", "/home/me/project", "/usrx")}
    assert seen == {"/usr/lib": True, "/usr/src/app/x": False, "/home/me/project": False, "/usrx": False}
    assert box.sees("/home/me/project/.venv/lib")


def test_one_processor_is_all_that_it_gets(place: Place, way: str) -> None:
    code = """
import os
try:
    os.sched_setaffinity(0, range(os.cpu_count()))
except PermissionError:
    widened = False
else:
    widened = True
found = [len(os.sched_getaffinity(0)), widened, os.environ["OMP_NUM_THREADS"]]
"""
    found = run(place, code, outputs=("found",))
    processors, widened, threads = json.loads(bytes(found.value("found").body))  # type: ignore[attr-defined]
    assert threads == "1"
    if usable_cpus() > 1 and not place.grouped:
        assert (processors, widened) == (1, False)
    else:
        assert found.isolation.held["cpus"].startswith("cgroup") or usable_cpus() == 1
