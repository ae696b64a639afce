"""Which limits a subprocess job gets, by which mechanism, and what is refused."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import pytest

from nodetool_jupyter.config import usable_cpus
from nodetool_jupyter.errors import InvalidRequest, LimitNotHeld, ProfileRefused, RunnerUnavailable
from nodetool_jupyter.jobs import CodeWork, JobRequest, Profile, ResourceLimits
from nodetool_jupyter.runners.kernel import most_processes
from nodetool_jupyter.runners.process_limits import WITHOUT_GROUPS, plan, profile_limits
from nodetool_jupyter.runners.process_python import interpreter
from nodetool_jupyter.runners.subprocess import SubprocessRunner
from nodetool_jupyter.worker import cgroups
from tests.components import require, require_right
from tests.runners.processes import Place

GROUPS = {**WITHOUT_GROUPS, "memory_bytes": "cgroup v2 memory", "pids": "cgroup v2 pids", "cpus": "cgroup v2 cpu"}


def request(profile: Profile = Profile.DEFAULT, python: str = "", **limits: object) -> JobRequest:
    return JobRequest(work=CodeWork("1"), profile=profile, python=python, limits=ResourceLimits(**limits))  # type: ignore[arg-type]


def test_probing_makes_a_group_and_leaves_none() -> None:
    cgroups.find()
    mark = f"-{os.getpid()}-"
    probes = [path for path, _, _ in os.walk("/sys/fs/cgroup") if os.path.basename(path).startswith("nodetool-probe-")]
    assert [path for path in probes if mark in path] == []


def test_two_threads_that_look_at_once_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    found, access = [cgroups.find()], os.access

    def meanwhile(*asked: object) -> bool:  # while the first one's group is there
        if len(found) == 1:
            found.append([])
            found[1] = cgroups.find()
        return access(*asked)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "access", meanwhile)
    outer = cgroups.find()
    assert found == [outer, outer]


def test_memory_beyond_a_groups_limit_is_not_swapped_out() -> None:
    found = require_right("Control groups", cgroups.find(), "run as root, or where they are delegated to you")
    group = cgroups.Group(f"nodetool-t-{os.getpid()}", found)
    try:
        assert "memory_bytes" in group.hold({"memory_bytes": 64 << 20})
        kept = [Path(folder, name) for folder in group.folders for name in ("memory.swappiness", "memory.swap.max")]
        assert {path.read_text() for path in kept if path.exists()} == {"0\n"}
    finally:
        assert group.remove()


def test_limits_of_the_profile_apply_where_groups_hold_them_and_are_named_where_not() -> None:
    assert plan(request(), GROUPS).defaults == profile_limits(Profile.DEFAULT)
    without = plan(request(), WITHOUT_GROUPS)
    assert (without.defaults, without.limits, without.held) == ({}, {}, {})
    assert set(without.not_held) == set(profile_limits(Profile.DEFAULT))
    assert plan(request(Profile.TRUSTED), GROUPS).limits == {}


def test_what_was_asked_for_counts_more_than_the_profile() -> None:
    found = plan(request(memory_bytes=1 << 20), GROUPS)
    assert found.limits["memory_bytes"] == 1 << 20
    assert "memory_bytes" not in found.defaults
    assert "memory_bytes" in found.required


def test_every_limit_has_its_mechanism_where_no_group_can_be_made() -> None:
    found = plan(request(memory_bytes=1, pids=2, cpu_seconds=3, open_files=4, file_size_bytes=5), WITHOUT_GROUPS)
    assert found.rlimits == {"CORE": (0, 0), "DATA": (1, 1), "CPU": (3, 4), "NOFILE": (4, 4), "FSIZE": (5, 5)}
    assert set(found.held) == {"memory_bytes", "pids", "cpu_seconds", "open_files", "file_size_bytes"}
    assert found.not_held == ()


def test_processors_are_refused_without_groups_unless_the_best_effort_is_enough() -> None:
    runner = SubprocessRunner(use_cgroups=False)
    few = usable_cpus() / 2
    with pytest.raises(LimitNotHeld, match="cpus"):
        runner.check(request(cpus=few))
    runner.check(request(cpus=few, best_effort=True))
    assert "cpus" in plan(request(cpus=few, best_effort=True), runner.holds()).not_held
    runner.check(request(cpus=float(usable_cpus())))


@pytest.mark.parametrize("use_cgroups", [True, False])
@pytest.mark.parametrize("best_effort", [True, False])
def test_more_processors_than_there_are_are_refused_with_their_number(use_cgroups: bool, best_effort: bool) -> None:
    runner = SubprocessRunner(use_cgroups=use_cgroups)
    for cpus in (usable_cpus() + 0.5, 1e300):
        with pytest.raises(InvalidRequest, match=f"--cpus {cpus:g}.*Take at most {usable_cpus()}".replace("+", r"\+")):
            runner.check(request(cpus=cpus, best_effort=best_effort))


@pytest.mark.parametrize("best_effort", [True, False])
def test_limits_beyond_the_machine_are_refused_with_both_numbers(*, best_effort: bool) -> None:
    runner, (_, files) = SubprocessRunner(), resource.getrlimit(resource.RLIMIT_NOFILE)
    pids = int(most_processes())
    there = {"pids": (pids, f"--pids-limit {pids + 1} is more than the {pids} "), "cpus": (usable_cpus(), "--cpus ")}
    if files != resource.RLIM_INFINITY:
        there["open_files"] = files, f"open_files={files + 1} is more than the {files} "
    for limit, (most, said) in there.items():
        above = most * (1 + 1e-9) if limit == "cpus" else most + 1
        with pytest.raises(InvalidRequest) as refused:
            runner.check(request(**{limit: above}, best_effort=best_effort))
        assert str(refused.value).startswith(said)
        assert f" {above} is" in str(refused.value).replace("=", " ")
        assert str(refused.value).endswith("Nothing was started.")
        if limit != "cpus" or "cpus" in runner.holds():
            runner.check(request(**{limit: most}, best_effort=best_effort))


def test_half_a_processor_is_half_a_processor(grouped: Place) -> None:
    code = "import time\nstart, used = time.monotonic(), time.process_time()\n"
    code += "while time.monotonic() - start < 1:\n    pass\n"
    code += "print((time.process_time() - used) / (time.monotonic() - start))"
    found = grouped.run(code, limits=ResourceLimits(cpus=0.25))
    assert found.isolation.held["cpus"].startswith("cgroup")
    assert float(found.text()) < 0.5


def test_isolation_names_what_is_held_and_what_is_not(place: Place) -> None:
    found = place.run("1", limits=ResourceLimits(cpu_seconds=100, open_files=100)).isolation
    assert {"cpu_seconds", "open_files"} <= found.held.keys()
    assert {"memory_bytes", "pids"} <= (found.held.keys() if place.grouped else set(found.not_held))
    assert found.boundary == "none"


def test_untrusted_code_is_refused_without_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    sentence = r"No sandbox is available .* bubblewrap was not found\. Install it \(apt install bubblewrap\), or use"
    with pytest.raises(ProfileRefused, match=sentence) as refused:
        SubprocessRunner().check(request(Profile.UNTRUSTED))
    assert refused.value.code == "NT-S02"


def test_another_system_than_linux_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(RunnerUnavailable, match=r"darwin.*--runner threaded"):
        SubprocessRunner().check(request())


def test_the_kernels_own_interpreter_is_known_without_being_run() -> None:
    assert interpreter() == interpreter(sys.executable)
    assert interpreter().same


def test_an_interpreter_of_this_environment_is_the_same_one(tmp_path: Path) -> None:
    link = Path(sys.executable).parent / f"python{sys.version_info.major}"
    assert interpreter(str(link)).same


@pytest.mark.parametrize(
    ("text", "words"),
    [("/nowhere/python", "does not exist"), ("/etc/passwd", "can't be executed"), ("/bin/echo", "not a Python")],
)
def test_what_is_no_interpreter_is_refused_by_its_path(text: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as refused:
        SubprocessRunner().check(request(python=text))
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize("answer", ['["cpython", [3, 9, 18], "/x", "/x"]', '["pypy", [3, 11, 1], "/x", "/x"]'])
def test_an_interpreter_that_is_too_old_is_refused_with_both_versions(tmp_path: Path, answer: str) -> None:
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\necho '{answer}'\n")
    fake.chmod(0o755)
    with pytest.raises(RunnerUnavailable) as refused:
        SubprocessRunner().check(request(python=str(fake)))
    assert answer[2:6] in str(refused.value)
    assert ".".join(map(str, sys.version_info[:3])) in str(refused.value)


def test_a_job_runs_in_another_interpreter_without_the_kernels_path(place: Place) -> None:
    other = require("Another CPython from 3.11", _another(), "apt-get install python3")
    found = place.run("import sys\nprint(sys.executable, 'msgspec' in sys.modules)\nimport json", python=other)
    assert found.text() == f"{other} False\n"
    assert found.exit.code == 0


def _another() -> str | None:
    for minor in range(11, 20):
        path = f"/usr/bin/python3.{minor}"
        if os.path.exists(path):
            return path
    return None
