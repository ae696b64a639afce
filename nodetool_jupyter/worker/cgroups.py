"""Control groups, version 1 and 2: which ones this process may make, and one group per job.

Groups are made below the one that this process is in, so a job never escapes a limit of its owner.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from . import tree

CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")
_PATIENCE_SECONDS, _LOOK_SECONDS = 1.0, 0.002
_PERIOD = 100_000
_probes = itertools.count()
_NAME = re.compile(r"nodetool-.+-(\d+)-(\d+)-(\d+)")


class Hierarchy(NamedTuple):
    """A folder in which groups can be made, and the controllers that they get there."""

    version: int
    controllers: frozenset[str]
    folder: str


class Usage(NamedTuple):
    """Bytes without what the kernel can drop at once, and seconds of processor time."""

    memory_bytes: int
    cpu_seconds: float


class Evidence(NamedTuple):
    """What a group tells about a death: kills for memory, the most bytes ever, refused forks."""

    oom_kills: int
    peak_bytes: int
    refused_forks: int


def find() -> list[Hierarchy]:
    """Hierarchies in which this process really can make a group: one was made and removed."""
    mine = _own_paths()
    found = []
    for version, names, root, point in _mounts():
        path = mine.get("" if version == 2 else next(iter(sorted(names)), "?"))
        if path is None or not _is_within(path, root):
            continue
        folder = (point + path.removeprefix(root.rstrip("/"))).rstrip("/")
        controllers = names if version == 1 else frozenset(_read(f"{folder}/cgroup.subtree_control").split())
        controllers &= frozenset(CONTROLLERS)
        if (version == 2 or controllers) and _can_make(folder):
            found.append(Hierarchy(version, controllers, folder))
    return found


def _own_paths() -> dict[str, str]:
    """The group of this process by controller; version 2 under ""."""
    paths = {}
    for line in _lines("/proc/self/cgroup"):
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            paths[name] = path
    return paths


def _mounts() -> list[tuple[int, frozenset[str], str, str]]:
    mounts = []
    for line in _lines("/proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if kind[0] == "cgroup2":
            mounts.append((2, frozenset[str](), fields[3], fields[4]))
        elif kind[0] == "cgroup":
            names = frozenset(kind[2].split(",")) & frozenset(CONTROLLERS)
            if names:
                mounts.append((1, names, fields[3], fields[4]))
    return mounts


def _is_within(path: str, root: str) -> bool:
    parts = path.rstrip("/").split("/")
    above = root.rstrip("/").split("/")
    return parts[: len(above)] == above and ".." not in parts


def _can_make(folder: str) -> bool:
    probe = f"{folder}/nodetool-probe-{next(_probes)}-{_maker()}"  # another thread may be at it, too
    try:
        os.mkdir(probe)
    except OSError:
        return False
    try:
        return os.access(f"{probe}/cgroup.procs", os.W_OK) and os.access(f"{folder}/cgroup.procs", os.W_OK)
    finally:
        with contextlib.suppress(OSError):
            os.rmdir(probe)


def _maker() -> str:
    """Who makes a group: process namespace, number and start, so that a later one can clear up."""
    return _made_by(os.getpid())


@lru_cache(maxsize=1)
def _made_by(pid: int) -> str:
    me = tree.look(pid)
    return f"{os.stat('/proc/self/ns/pid').st_ino}-{pid}-{me.start if me else 0}"


def mechanisms(hierarchies: list[Hierarchy]) -> dict[str, str]:
    """Which limits groups hold here: name of the limit to a phrase for a person."""
    by_controller = {name: h.version for h in hierarchies for name in h.controllers}
    limits = {"memory": "memory_bytes", "pids": "pids", "cpu": "cpus"}
    return {limits[name]: f"cgroup v{v} {name}" for name, v in sorted(by_controller.items()) if name in limits}


def remove_stale(hierarchies: list[Hierarchy]) -> None:
    """Kill and remove what makers of groups left that are gone themselves; what takes longer than a second stays."""
    until = time.monotonic() + _PATIENCE_SECONDS
    namespace = os.stat("/proc/self/ns/pid").st_ino
    for hierarchy in hierarchies:
        for name in os.listdir(hierarchy.folder):
            match = _NAME.fullmatch(name)
            if not match or int(match[1]) != namespace:
                continue
            maker = tree.look(int(match[2]))
            if maker is None or maker.start != int(match[3]) or not maker.lives:
                _remove(f"{hierarchy.folder}/{name}", until)


class Group:
    """The groups of one job, one in each hierarchy; `name` begins with "nodetool-"."""

    def __init__(self, name: str, hierarchies: list[Hierarchy]) -> None:
        self._name = f"{name}-{_maker()}"
        self._folders: list[str] = []
        self._at: dict[str, tuple[int, str]] = {}
        self.kills_whole = ""
        for hierarchy in hierarchies:
            folder = f"{hierarchy.folder}/{self._name}"
            try:
                os.mkdir(folder)
            except OSError:
                continue
            self._folders.append(folder)
            self._at.update(dict.fromkeys(hierarchy.controllers, (hierarchy.version, folder)))
            if hierarchy.version == 2:
                self._at.setdefault("cpuacct", (2, folder))
                if os.path.exists(f"{folder}/cgroup.kill"):
                    self.kills_whole = f"{folder}/cgroup.kill"

    def hold(self, limits: Mapping[str, float]) -> dict[str, str]:
        """Set limits; those that stand now, each with its mechanism."""
        held = {}
        for limit, controller in (("memory_bytes", "memory"), ("pids", "pids"), ("cpus", "cpu")):
            if limits.get(limit) is None or controller not in self._at:
                continue
            version, folder = self._at[controller]
            with contextlib.suppress(OSError):
                for name, value in _settings(limit, version, limits[limit]):
                    if not name.startswith("?"):
                        _write(f"{folder}/{name}", value)
                    elif os.path.exists(f"{folder}/{name[1:]}"):
                        _write(f"{folder}/{name[1:]}", value)
                held[limit] = f"cgroup v{version} {controller}"
        return held

    @property
    def folders(self) -> tuple[str, ...]:
        """Where it is, one for each hierarchy."""
        return tuple(self._folders)

    def attach(self, pid: int) -> bool:
        """Move a process in; children that it has later follow. Takes the kernel some 10 ms."""
        try:
            self.join(pid)
        except OSError:
            return False
        return bool(self._folders)

    def join(self, pid: int) -> None:
        """Move a process in. Raises `OSError` where that can't be done."""
        join(self._folders, pid)

    def members(self) -> set[int]:
        """Processes that are in the group now."""
        found: set[int] = set()
        for folder in self._folders:
            found |= _members(folder)
        return found

    def kill(self) -> None:
        """SIGKILL to every member at once, where the kernel offers that."""
        if self.kills_whole:
            with contextlib.suppress(OSError):
                _write(self.kills_whole, "1")

    def usage(self) -> Usage | None:
        """What the members use now; `None` without accounting."""
        if "memory" not in self._at or "cpuacct" not in self._at:
            return None
        version, folder = self._at["memory"]
        used = _number(f"{folder}/{'memory.current' if version == 2 else 'memory.usage_in_bytes'}")
        droppable = _counter(f"{folder}/memory.stat", "inactive_file" if version == 2 else "total_inactive_file")
        return Usage(max(0, used - droppable), self.cpu_seconds())

    def cpu_seconds(self) -> float:
        """Processor time that the members have used, those that are gone too; 0 without accounting."""
        if "cpuacct" not in self._at:
            return 0.0
        version, folder = self._at["cpuacct"]
        if version == 2:
            return _counter(f"{folder}/cpu.stat", "usage_usec") / 1e6
        return _number(f"{folder}/cpuacct.usage") / 1e9

    def evidence(self) -> Evidence:
        """What the kernel counted."""
        kills = peak = refused = 0
        if "memory" in self._at:
            version, folder = self._at["memory"]
            kills = _counter(f"{folder}/{'memory.events' if version == 2 else 'memory.oom_control'}", "oom_kill")
            peak = _number(f"{folder}/{'memory.peak' if version == 2 else 'memory.max_usage_in_bytes'}")
        if "pids" in self._at:
            refused = _counter(f"{self._at['pids'][1]}/pids.events", "max")
        return Evidence(kills, peak, refused)

    def remove(self) -> bool:
        """Remove the groups; False while the kernel still sees somebody in one."""
        for folder in list(self._folders):
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                pass
            except OSError:
                return False
            self._folders.remove(folder)
        return True


def join(folders: Iterable[str], pid: int) -> None:
    """Move a process into groups. Raises `OSError` where that can't be done."""
    for folder in folders:
        _write(f"{folder}/cgroup.procs", str(pid))


def _settings(limit: str, version: int, value: float) -> list[tuple[str, str]]:
    """Files and what to write; a name with ? is left out where the kernel lacks it."""
    whole = str(int(value))
    if limit == "pids":
        return [("pids.max", whole)]
    if limit == "memory_bytes":
        if version == 2:
            return [("memory.max", whole), ("?memory.swap.max", "0")]
        # without the second, which a kernel may lack, the third keeps what passes the limit from being swapped out
        return [
            ("memory.limit_in_bytes", whole),
            ("?memory.memsw.limit_in_bytes", whole),
            ("?memory.swappiness", "0"),
        ]
    quota = str(max(1000, int(value * _PERIOD)))
    if version == 2:
        return [("cpu.max", f"{quota} {_PERIOD}")]
    return [("cpu.cfs_period_us", str(_PERIOD)), ("cpu.cfs_quota_us", quota)]


def _remove(folder: str, until: float) -> None:
    """Kill who is in a group, and remove it when the kernel has let them go."""
    while True:
        tree.send(_members(folder), signal.SIGKILL)
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > until:
                return
            time.sleep(_LOOK_SECONDS)
        else:
            return


def _members(folder: str) -> set[int]:
    return {int(pid) for pid in _read(f"{folder}/cgroup.procs").split()} - {0}


def _read(path: str) -> str:
    try:
        return os.fsdecode(tree.read(path))
    except OSError:
        return ""


def _lines(path: str) -> list[str]:
    """As the kernel ends them: names of groups and folders may hold whatever else ends a line somewhere."""
    return list(filter(None, _read(path).split("\n")))


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _number(path: str) -> int:
    text = _read(path).strip()
    return int(text) if text.isdigit() else 0


def _counter(path: str, name: str) -> int:
    for line in _read(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
