"""The ladder of a stop and the proof of an end, on a clock of the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodetool_jupyter.worker import cgroups, tree
from nodetool_jupyter.worker.supervised import UNKILLABLE_SECONDS, Supervised


@pytest.fixture
def zombie() -> Iterator[int]:
    """A process that takes signals, but to which nothing can happen any more."""
    with subprocess.Popen(["true"], start_new_session=True) as process:
        yield process.pid


def supervised(pid: int) -> Supervised:
    made = Supervised("job", pid, group=None, watched={}, folder="/nowhere")
    made.starting = False
    return made


def sent(made: Supervised) -> list[tuple[str, float]]:
    return [(name, at) for name, at, _ in made.receipt()["sent"]]


def test_the_ladder_is_interrupt_at_once_terminate_at_half_kill_at_the_grace(zombie: int) -> None:
    made = supervised(zombie)
    made.stop(4.0, 100.0)
    for now in (100.0, 101.9, 102.0, 103.9, 104.0):
        made.tick(now, lambda: {zombie})
    assert sent(made) == [("SIGINT", 0.0), ("SIGTERM", 2.0), ("SIGKILL", 4.0)]


def test_a_second_stop_neither_restarts_nor_lengthens_the_first(zombie: int) -> None:
    made = supervised(zombie)
    made.stop(4.0, 100.0)
    made.tick(100.0, lambda: {zombie})
    made.stop(100.0, 101.0)
    made.tick(104.0, lambda: {zombie})
    assert [name for name, _ in sent(made)] == ["SIGINT", "SIGTERM", "SIGKILL"]


def test_without_grace_there_is_only_the_kill(zombie: int) -> None:
    made = supervised(zombie)
    made.stop(0.0, 100.0)
    made.tick(100.0, lambda: {zombie})
    assert sent(made) == [("SIGKILL", 0.0)]


def test_when_the_owner_is_gone_the_ladder_is_terminate_and_kill_a_second_later(zombie: int) -> None:
    made = supervised(zombie)
    made.stop(60.0, 100.0)
    made.end(101.0)
    made.tick(101.0, lambda: {zombie})
    made.tick(102.0, lambda: {zombie})
    assert [name for name, _ in sent(made)] == ["SIGTERM", "SIGKILL"]


def test_what_is_left_of_a_leader_is_killed_a_second_after_its_end(zombie: int) -> None:
    made = supervised(1 << 22)
    made.leader_ended(0, peak_bytes=0, cpu_seconds=0.0, now=100.0)
    made.tick(100.9, lambda: {zombie})
    assert sent(made) == []
    assert not made.gone
    made.tick(101.0, lambda: {zombie})
    assert sent(made) == [("SIGKILL", 1.0)]
    made.tick(101.1, set)
    assert made.gone


def test_a_job_is_gone_only_when_its_leader_is_reaped(zombie: int) -> None:
    made = supervised(zombie)
    made.stop(0.0, 100.0)
    made.tick(100.0, set)
    assert not made.gone
    made.leader_ended(-9, peak_bytes=0, cpu_seconds=0.0, now=100.1)
    made.tick(100.1, set)
    assert made.gone
    assert (made.receipt()["status"], made.receipt()["by_us"]) == (-signal.SIGKILL, True)


def test_what_does_not_die_of_a_kill_is_called_unkillable(zombie: int) -> None:
    made = supervised(zombie)
    made.stop(0.0, 100.0)
    made.tick(100.0, lambda: {zombie})
    made.tick(100.0 + UNKILLABLE_SECONDS - 0.1, lambda: {zombie})
    assert not made.stuck
    made.tick(100.0 + UNKILLABLE_SECONDS, lambda: {zombie})
    assert made.stuck
    assert not made.gone


def test_a_group_of_version_2_gets_its_files(tmp_path: Path) -> None:
    hierarchy = cgroups.Hierarchy(2, frozenset({"memory", "pids", "cpu"}), str(tmp_path))
    group = cgroups.Group("nodetool-0-owner-job", [hierarchy])
    [folder] = tmp_path.iterdir()
    for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.max"):
        (folder / name).touch()
    held = group.hold({"memory_bytes": 1 << 20, "pids": 7, "cpus": 1.5})
    assert held == {name: f"cgroup v2 {name.partition('_')[0].rstrip('s')}" for name in ("memory_bytes", "cpus")} | {
        "pids": "cgroup v2 pids"
    }
    written = {path.name: path.read_text() for path in folder.iterdir()}
    assert written == {
        "memory.max": "1048576",
        "memory.swap.max": "0",
        "pids.max": "7",
        "cpu.max": "150000 100000",
    }


def test_the_evidence_of_a_group_of_version_2_is_read(tmp_path: Path) -> None:
    group = cgroups.Group("nodetool-0-o-j", [cgroups.Hierarchy(2, frozenset({"memory", "pids"}), str(tmp_path))])
    [folder] = tmp_path.iterdir()
    for name, text in {
        "memory.events": "low 0\noom 1\noom_kill 2\n",
        "memory.peak": "4096\n",
        "memory.current": "3000\n",
        "memory.stat": "anon 1\ninactive_file 1000\n",
        "cpu.stat": "usage_usec 1500000\n",
        "pids.events": "max 3\n",
    }.items():
        (folder / name).write_text(text)
    assert group.evidence() == cgroups.Evidence(oom_kills=2, peak_bytes=4096, refused_forks=3)
    assert group.usage() == cgroups.Usage(memory_bytes=2000, cpu_seconds=1.5)


@pytest.mark.parametrize(
    ("oom_kills", "leader", "told"),
    [
        pytest.param(1, 50, 900, id="of the whole group that was killed"),
        pytest.param(1, 2000, 900, id="never above the limit that it was killed for"),
        pytest.param(0, 50, 50, id="without the files that were read"),
        pytest.param(0, 2000, 900, id="without what the warm parent pays for"),
    ],
)
def test_the_peak_is_what_the_job_itself_took(tmp_path: Path, oom_kills: int, leader: int, told: int) -> None:
    group = cgroups.Group("nodetool-0-o-j", [cgroups.Hierarchy(2, frozenset({"memory"}), str(tmp_path))])
    [folder] = tmp_path.iterdir()
    (folder / "memory.events").write_text(f"oom_kill {oom_kills}\n")
    (folder / "memory.peak").write_text("900\n")
    made = Supervised("job", 1 << 22, group=group, watched={}, folder="/nowhere")
    made.starting = False
    made.leader_ended(1, peak_bytes=leader, cpu_seconds=0.0, now=100.0)
    made.tick(100.0, set)
    assert made.receipt()["peak_memory_bytes"] == told


@pytest.mark.parametrize(
    ("own", "mounts", "folder"),
    [
        ("0::/user.slice/a\n", "1 2 0:1 / {} rw - cgroup2 cgroup2 rw\n", "user.slice/a"),
        ("0::/\n", "1 2 0:1 / {} rw - cgroup2 cgroup2 rw\n", ""),
        (
            "0::/\n",
            "3 2 8:1 / /mnt/a\fb\rc\u2028d\udcff rw - ext4 /dev/a rw\n1 2 0:1 / {} rw - cgroup2 cgroup2 rw\n",
            "",
        ),
        ("4:cpu,cpuacct:/docker/x\n", "1 2 0:1 /docker/x {} rw - cgroup cgroup rw,cpu,cpuacct\n", ""),
        ("4:memory:/x/y\n", "1 2 0:1 /x {} rw - cgroup cgroup rw,memory\n", "y"),
        ("4:memory:/xy\n", "1 2 0:1 /x {} rw - cgroup cgroup rw,memory\n", None),
        ("0::/../a\n", "1 2 0:1 / {} rw - cgroup2 cgroup2 rw\n", None),
    ],
)
def test_a_group_is_looked_for_below_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, mounts: str, folder: str | None
) -> None:
    texts = {"/proc/self/cgroup": own, "/proc/self/mountinfo": mounts.format(tmp_path)}
    monkeypatch.setattr(tree, "read", lambda path: os.fsencode(texts.get(path, "memory pids io")))
    inside = [] if folder is None else [str(tmp_path / folder)]
    monkeypatch.setattr(cgroups, "_can_make", lambda path: path in inside)
    found = cgroups.find()
    assert [each.folder for each in found] == inside
    assert not any("io" in each.controllers for each in found)
