"""From the limits of a request to what the kernel is told: control groups, rlimits, or a watch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..config import usable_cpus
from ..errors import InvalidRequest
from ..jobs import JobRequest, Profile

_PROFILE_MEMORY_BYTES = 4 << 30
_PROFILE_PIDS = 512
_PROFILE_PIDS_PER_CPU = 64
_PROFILE_CPUS = 2

WITHOUT_GROUPS = {
    "wall_seconds": "timer",
    "memory_bytes": "RLIMIT_DATA and a watch on resident memory",
    "pids": "a watch on the number of processes",
    "cpu_seconds": "RLIMIT_CPU and a watch on the whole tree",
    "open_files": "RLIMIT_NOFILE",
    "file_size_bytes": "RLIMIT_FSIZE",
}


def check_cpus(cpus: float | None) -> None:
    """Raises `InvalidRequest` for more processors than a process may use here."""
    if cpus is not None and cpus > usable_cpus():
        raise InvalidRequest(
            f"--cpus {cpus:g} is more than this machine lets a process use, which is {usable_cpus()}. "
            f"Take at most {usable_cpus()}. Nothing was started."
        )


@dataclass(frozen=True)
class Plan:
    """What one job gets.

    limits: in force by group or watch; required: those of them that must be, or the job doesn't start;
    defaults: those that only the profile wants; held: every limit with its mechanism.
    """

    rlimits: dict[str, tuple[int, int]] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    defaults: dict[str, float] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    not_held: tuple[str, ...] = ()


def plan(request: JobRequest, mechanisms: Mapping[str, str]) -> Plan:
    """The plan for a request where these mechanisms are there."""
    asked = request.limits.asked()
    grouped = {name for name, how in mechanisms.items() if how.startswith("cgroup")}
    wanted = profile_limits(request.profile)
    defaults = {name: value for name, value in wanted.items() if name not in asked and name in grouped}
    held = {name: mechanisms[name] for name in (*asked, *defaults) if name in mechanisms}
    limits = {**defaults, **asked}
    rlimits = {"CORE": (0, 0)}
    if "memory_bytes" in asked and "memory_bytes" not in grouped:
        rlimits["DATA"] = (int(asked["memory_bytes"]),) * 2
    if "cpu_seconds" in asked:
        rlimits["CPU"] = (int(asked["cpu_seconds"]), int(asked["cpu_seconds"]) + 1)
    for name, which in (("open_files", "NOFILE"), ("file_size_bytes", "FSIZE")):
        if name in asked:
            rlimits[which] = (int(asked[name]),) * 2
    return Plan(
        rlimits=rlimits,
        limits=limits,
        required=() if request.limits.best_effort else tuple(name for name in asked if name in grouped),
        defaults=defaults,
        held=held,
        not_held=tuple(name for name in {**wanted, **asked} if name not in held),
    )


def profile_limits(profile: Profile) -> dict[str, float]:
    """What the profile wants when nobody asks; never more than the machine has, and no limit that is none."""
    if profile is not Profile.DEFAULT:
        return {}
    cpus = usable_cpus()
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits: dict[str, float] = {
        "memory_bytes": min(_PROFILE_MEMORY_BYTES, memory_bytes),
        "pids": max(_PROFILE_PIDS, _PROFILE_PIDS_PER_CPU * cpus),
    }
    if cpus > _PROFILE_CPUS:
        limits["cpus"] = _PROFILE_CPUS
    return limits
