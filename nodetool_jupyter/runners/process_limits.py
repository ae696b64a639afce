"""From the limits of a request to what the kernel is told: control groups, rlimits, or a watch."""

from __future__ import annotations

import math
import resource
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..config import total_memory_bytes, usable_cpus
from ..errors import InvalidRequest
from ..jobs import JobRequest, Profile
from ..quantities import numbers_apart, sizes_apart
from .kernel import most_processes

_PROFILE_MEMORY_BYTES = 4 << 30
_PROFILE_PIDS = 512
_PROFILE_PIDS_PER_CPU = 64
_PROFILE_CPUS = 2
_LEAST_OPEN_FILES = 8
_UNTRUSTED: dict[str, float] = {
    "memory_bytes": 512 << 20,
    "pids": 64,
    "cpus": 1,
    "open_files": 1024,
    "file_size_bytes": 256 << 20,
}
_UNTRUSTED_LOCKED_BYTES = 64 << 10
PINNED = "processor affinity, which the filter of system calls keeps"

WITHOUT_GROUPS = {
    "wall_seconds": "timer",
    "memory_bytes": "RLIMIT_DATA and a watch, without what the kernel buffers",
    "pids": "a watch on the number of processes and threads",
    "cpu_seconds": "RLIMIT_CPU and a watch on the whole tree",
    "open_files": "RLIMIT_NOFILE",
    "file_size_bytes": "RLIMIT_FSIZE",
}
_NOTHING = "Nothing was started."
IN_A_SANDBOX = {"memory_bytes": "RLIMIT_DATA and a watch, and no call for memory that they don't see"}
"""There the filter of system calls refuses what neither of the two counts."""


@dataclass(frozen=True)
class Plan:
    """What one job gets.

    limits: in force by group or watch; required: those of them that must be, or the job doesn't start;
    defaults: those that only the profile wants; held: every limit with its mechanism. processors: how many of the
    machine's the job is pinned to, 0 for all.
    """

    rlimits: dict[str, tuple[int, int]] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    defaults: dict[str, float] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    not_held: tuple[str, ...] = ()
    processors: int = 0

    @property
    def memory_is_counted(self) -> bool:
        """Whether a control group counts all of it."""
        return self.held.get("memory_bytes", "").startswith("cgroup")


def plan(request: JobRequest, mechanisms: Mapping[str, str]) -> Plan:
    """The plan for a request where these mechanisms are there."""
    asked = request.limits.asked()
    untrusted = request.profile is Profile.UNTRUSTED
    grouped = {name for name, how in mechanisms.items() if how.startswith("cgroup")}
    wanted = profile_limits(request.profile)
    defaults = {name: value for name, value in wanted.items() if name not in asked and (untrusted or name in grouped)}
    held = {name: mechanisms[name] for name in (*asked, *defaults) if name in mechanisms}
    limits = {**defaults, **asked}
    must = asked if untrusted or not request.limits.best_effort else {}
    return Plan(
        rlimits=_rlimits(limits if untrusted else asked, grouped, untrusted=untrusted),
        limits=limits,
        required=tuple(name for name in {**must, **(defaults if untrusted else {})} if name in grouped),
        defaults=defaults,
        held=held,
        not_held=(
            *(name for name in {**wanted, **asked} if name not in held),
            *(["gpus"] if request.container.gpus else []),
        ),
        processors=int(limits["cpus"]) if held.get("cpus") == PINNED else 0,
    )


def _rlimits(limits: Mapping[str, float], grouped: set[str], *, untrusted: bool) -> dict[str, tuple[int, int]]:
    rlimits = {"CORE": (0, 0)}
    if "memory_bytes" in limits and "memory_bytes" not in grouped:
        rlimits["DATA"] = (int(limits["memory_bytes"]),) * 2
    if "cpu_seconds" in limits:
        rlimits["CPU"] = (int(limits["cpu_seconds"]), int(limits["cpu_seconds"]) + 1)
    for name, which in (("open_files", "NOFILE"), ("file_size_bytes", "FSIZE")):
        if name in limits:
            rlimits[which] = (int(limits[name]),) * 2
    if untrusted:
        rlimits["MEMLOCK"] = (_UNTRUSTED_LOCKED_BYTES,) * 2
    return rlimits


def profile_limits(profile: Profile) -> dict[str, float]:
    """What the profile wants when nobody asks; never more than the machine has, and no limit that is none."""
    if profile is Profile.TRUSTED:
        return {}
    cpus = usable_cpus()
    memory_bytes = total_memory_bytes()
    if profile is Profile.UNTRUSTED:
        return {**_UNTRUSTED, "memory_bytes": min(_UNTRUSTED["memory_bytes"], memory_bytes)}
    limits: dict[str, float] = {
        "memory_bytes": min(_PROFILE_MEMORY_BYTES, memory_bytes),
        "pids": max(_PROFILE_PIDS, _PROFILE_PIDS_PER_CPU * cpus),
    }
    if cpus > _PROFILE_CPUS:
        limits["cpus"] = _PROFILE_CPUS
    return limits


def check_machine(request: JobRequest) -> None:
    """Refuse what the machine doesn't have, since such a limit would be none, and what no Python starts with.

    Raises `InvalidRequest`.
    """
    limits = request.limits
    memory_bytes, cpus, files, pids = limits.memory_bytes, limits.cpus, limits.open_files, limits.pids
    if files is not None and files < _LEAST_OPEN_FILES:
        raise InvalidRequest(
            f"open_files={files} is too little for Python to start. Give at least {_LEAST_OPEN_FILES}. {_NOTHING}"
        )
    if files is not None and files > (hardest := _hardest_open_files()):
        raise InvalidRequest(
            f"open_files={files} is more than the {hardest:.0f} that this kernel's own hard limit leaves (ulimit -Hn). "
            f"Ask for less. {_NOTHING}"
        )
    if pids is not None and pids > (most := most_processes()):
        raise InvalidRequest(
            f"--pids-limit {pids} is more than the {most:.0f} that this machine can have. Ask for less. {_NOTHING}"
        )
    if memory_bytes is not None and memory_bytes > total_memory_bytes():
        wanted, there = sizes_apart(memory_bytes, total_memory_bytes())
        raise InvalidRequest(f"--memory {wanted} is more than the {there} of this machine. Ask for less. {_NOTHING}")
    if cpus is not None and cpus > usable_cpus():
        wanted, there = numbers_apart(cpus, usable_cpus())
        raise InvalidRequest(
            f"--cpus {wanted} is more than this machine lets a process use, which is {there}. "
            f"Take at most {there}. {_NOTHING}"
        )


def _hardest_open_files() -> float:
    hardest = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return math.inf if hardest == resource.RLIM_INFINITY else hardest
