"""From a request to what the engine is told about its container; pure, so that tests can read it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...containers import MOST_ID, WORKDIR, Bind, ContainerOptions, gpu_ids
from ...jobs import JobRequest, Profile
from . import syscalls
from .bundle import LOADER

NOBODY = "65534:65534"
SHARED = "/dev/shm"  # noqa: S108 - a mount of the container's own
LEAST_CPUS = 0.01
LEAST_PIDS = 3
LEAST_OPEN_FILES = 64  # the worker keeps its own at the end of these
_NUMBER = re.compile(r"[+-]?[0-9]+")
_NANO = 10**9
_MIB = 1 << 20
_GIB = 1 << 30

PROFILE_LIMITS: Mapping[Profile, Mapping[str, float]] = {
    Profile.TRUSTED: {"shm_bytes": _GIB},
    Profile.DEFAULT: {"memory_bytes": 4 * _GIB, "cpus": 2, "pids": 512, "shm_bytes": _GIB, "open_files": 4096},
    Profile.UNTRUSTED: {
        "memory_bytes": 512 * _MIB,
        "cpus": 1,
        "pids": 64,
        "shm_bytes": 64 * _MIB,
        "open_files": 1024,
        "file_size_bytes": 256 * _MIB,
    },
}
"""What a profile wants when nobody asks for another limit."""

MECHANISMS = {
    "wall_seconds": "timer",
    "memory_bytes": "container memory",
    "cpus": "container CPU quota",
    "pids": "container pids",
    "shm_bytes": "sized /dev/shm",
    "open_files": "RLIMIT_NOFILE",
    "file_size_bytes": "RLIMIT_FSIZE",
}
_NEEDS = {"memory_bytes": "MemoryLimit", "cpus": "CpuCfsQuota", "pids": "PidsLimit"}
_NEVER_ASKED = ("Binds", "CapAdd", "Devices", "DeviceCgroupRules", "VolumesFrom", "GroupAdd", "PortBindings", "Links",
                "UTSMode", "UsernsMode", "Sysctls")  # fmt: skip
_UPDATABLE = ("Memory", "MemorySwap", "NanoCpus", "PidsLimit")


@dataclass(frozen=True, kw_only=True)
class ContainerSpec:
    """One container. limits: in force, asked or of the profile; config: the body of the engine's create call."""

    limits: Mapping[str, float]
    defaults: Mapping[str, float]
    held: Mapping[str, str]
    not_held: tuple[str, ...]
    config: dict[str, Any] = field(hash=False)

    @property
    def host(self) -> Mapping[str, Any]:
        """The part of the body that the engine gives back on `inspect`."""
        found: Mapping[str, Any] = self.config["HostConfig"]
        return found

    @property
    def covered(self) -> tuple[str, ...]:
        """Where something lies over the image's own files that is not the same for every job."""
        laid = {*self.host["Tmpfs"], *(mount["Target"] for mount in self.host["Mounts"])}
        return tuple(sorted(laid - {"/tmp", WORKDIR, SHARED}))  # noqa: S108 - a mount of the container's own


def holds(facts: Mapping[str, Any]) -> dict[str, str]:
    """The limits that this engine can hold, each with its mechanism."""
    return {name: how for name, how in MECHANISMS.items() if facts.get(_NEEDS.get(name, ""), True)}


def holds_swap(facts: Mapping[str, Any]) -> bool:
    """Whether what a container may not have in memory it may not have in swap space instead."""
    return bool(facts.get("SwapLimit", True))


def container_spec(
    request: JobRequest,
    facts: Mapping[str, Any],
    *,
    image: str,
    image_user: str,
    network: str,
    devices: tuple[str, ...],
    volumes: tuple[str, ...] = (),
) -> ContainerSpec:
    """What to create for a request. image: its id. network: the engine's name of it. devices: the GPUs leased.

    image_user: the image's own, who counts where it is a number and not root's. volumes: what the image declares.
    """
    able = holds(facts)
    asked = request.limits.asked()
    wanted = _within(PROFILE_LIMITS[request.profile], facts)
    defaults = {name: value for name, value in wanted.items() if name not in asked and name in able}
    limits = {**defaults, **{name: value for name, value in asked.items() if name in able}}
    options = request.container
    untrusted = request.profile is Profile.UNTRUSTED
    user = _user_of(options.user, image_user, untrusted=untrusted)
    config = {
        **_program(request.profile),
        "Image": image,
        "User": user,
        "WorkingDir": options.workdir or WORKDIR,
        "HostConfig": {
            **_limit_fields(limits, facts),
            **_shut(network, untrusted=untrusted),
            "ReadonlyRootfs": untrusted or options.read_only,
            "Tmpfs": _tmpfs(user, options, volumes, _shm_bytes(limits), untrusted=untrusted),
            "Ulimits": _ulimits(limits, untrusted=untrusted),
            "Mounts": [_mount(bind) for bind in options.binds],
            "DeviceRequests": _device_requests(options.gpus, devices),
        },
    }
    missing = tuple(name for name in {**wanted, **asked, **_swap(limits, facts)} if name not in able)
    held = {name: able[name] for name in limits}
    return ContainerSpec(limits=limits, defaults=defaults, held=held, not_held=missing, config=config)


def is_number(text: str) -> bool:
    """Whether the engine reads a user's or group's number in it; it takes a sign, too."""
    return _NUMBER.fullmatch(text) is not None


def _user_of(asked: str, image_user: str, *, untrusted: bool) -> str:
    """Who it runs as: `UID:GID`, or the names that were asked for and that nobody could put into numbers.

    A user without a group would get the group that the image's files say, or root's where they say none.
    """
    uid, _, gid = (asked or image_user).partition(":")
    gid = gid or uid
    if not (is_number(uid) and is_number(gid)):
        return asked or NOBODY
    numbers = int(uid), int(gid)
    may_be = 0 < numbers[0] <= MOST_ID and int(untrusted) <= numbers[1] <= MOST_ID
    return "{}:{}".format(*numbers) if asked or may_be else NOBODY


def _mount(bind: Bind) -> dict[str, Any]:
    """What lies at the path and nothing that is mounted below it: a mount has rights of its own, whatever is asked."""
    return {
        "Type": "bind",
        "Source": bind.source,
        "Target": bind.target,
        "ReadOnly": bind.read_only,
        "BindOptions": {"NonRecursive": True},
    }


def _program(profile: Profile) -> dict[str, Any]:
    """What runs, and where its streams go."""
    return {
        "Entrypoint": [],
        "Cmd": ["python3", "-I", "-S", "-c", LOADER, profile.value],
        "Env": [
            f"HOME={WORKDIR}",
            "LANG=C.UTF-8",
            "PYTHONUNBUFFERED=1",
            "PYTHONFAULTHANDLER=1",
            "PYTHONDONTWRITEBYTECODE=1",
        ],
        "Healthcheck": {"Test": ["NONE"]},
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": False,
    }


def _within(wanted: Mapping[str, float], facts: Mapping[str, Any]) -> dict[str, float]:
    """The profile's limits, none above what the host has."""
    most = {"memory_bytes": facts.get("MemTotal") or math.inf, "cpus": facts.get("NCPU") or math.inf}
    return {name: min(value, most.get(name, math.inf)) for name, value in wanted.items()}


def _swap(limits: Mapping[str, float], facts: Mapping[str, Any]) -> dict[str, float]:
    """A limit on memory as one on swap space, where that can't be held."""
    return {} if holds_swap(facts) or "memory_bytes" not in limits else {"swap": limits["memory_bytes"]}


def helper_host(facts: Mapping[str, Any], limits: Mapping[str, float]) -> dict[str, Any]:
    """`HostConfig` of a container that serves a job and is none: shut like one of untrusted code, but for its user.

    Its limits are those that can be held.
    """
    able = holds(facts)
    within = {name: value for name, value in _within(limits, facts).items() if name in able}
    return {**_limit_fields(within, facts), **_shut("none", untrusted=True), "Tmpfs": {}, "Mounts": []}


def _limit_fields(limits: Mapping[str, float], facts: Mapping[str, Any]) -> dict[str, Any]:
    memory = int(limits.get("memory_bytes", 0))
    return {
        "Memory": memory,
        # of both together; -1 is what an engine makes of every other number where it can't hold that
        "MemorySwap": memory if holds_swap(facts) or not memory else -1,
        "NanoCpus": round(limits.get("cpus", 0) * _NANO),
        "PidsLimit": int(limits["pids"]) if "pids" in limits else None,
        "ShmSize": _shm_bytes(limits),
    }


def _shm_bytes(limits: Mapping[str, float]) -> int:
    return int(limits.get("shm_bytes", 64 * _MIB))


def _shut(network: str, *, untrusted: bool) -> dict[str, Any]:
    """What is the same for every job: nothing that leads out."""
    return {
        "NetworkMode": network,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges=true", *([f"seccomp={syscalls.profile()}"] if untrusted else [])],
        "Privileged": False,
        "IpcMode": "private",
        "PidMode": "",
        "Init": False,
        "OomScoreAdj": 800,
        "AutoRemove": False,
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "LogConfig": {"Type": "none", "Config": {}},
    }


def _tmpfs(
    user: str, options: ContainerOptions, volumes: tuple[str, ...], shm_bytes: int, *, untrusted: bool
) -> dict[str, str]:
    """What is in memory. A volume is where nothing may be written to: it would be on the engine's disk, unbounded.

    So is one over shared memory always: that one would not have the size that is told.
    """
    uid, _, gid = user.partition(":")
    whose = f",uid={uid},gid={gid if gid.isdigit() else uid}" if uid.isdigit() else ",mode=1777"
    temporary = "rw,nosuid,nodev,noexec,size=64m" if untrusted else "rw,nosuid,nodev,exec,size=512m"
    temporary += ",mode=1777"
    job = "rw,nosuid,nodev,size=256m" if untrusted else "rw,nosuid,nodev,exec,size=1g"
    within = volumes if untrusted or options.read_only else ()
    shared = {SHARED: f"rw,nosuid,nodev,noexec,size={shm_bytes},mode=1777"} if SHARED in volumes else {}
    found = {**dict.fromkeys(within, temporary), **shared, "/tmp": temporary, WORKDIR: job + whose}  # noqa: S108 - a mount of the container's own
    covered = {bind.target for bind in options.binds}
    return {**{path: how for path, how in found.items() if path not in covered}, **options.tmpfs}


def _ulimits(limits: Mapping[str, float], *, untrusted: bool) -> list[dict[str, Any]]:
    found = {"core": 0.0}
    if untrusted:
        found["memlock"] = 64 << 10
    for name, which in (("open_files", "nofile"), ("file_size_bytes", "fsize")):
        if name in limits:
            found[which] = limits[name]
    return [{"Name": name, "Soft": int(value), "Hard": int(value)} for name, value in found.items()]


def _device_requests(gpus: str, devices: tuple[str, ...]) -> list[dict[str, Any]] | None:
    """One id in each element; `None` is no GPU."""
    if not gpus:
        return None
    capabilities = [["gpu"]]
    if ids := devices or gpu_ids(gpus):
        return [{"Driver": "nvidia", "Count": 0, "DeviceIDs": list(ids), "Capabilities": capabilities}]
    return [{"Driver": "nvidia", "Count": -1 if gpus == "all" else int(gpus), "Capabilities": capabilities}]


def pool_key(spec: ContainerSpec) -> str:
    """Equal for containers that differ only in what `update` can change: not whether there is a limit at all."""
    import json

    host = {name: bool(value) if name in _UPDATABLE else value for name, value in spec.host.items()}
    return json.dumps([{**spec.config, "HostConfig": host}], sort_keys=True)


def update_fields(spec: ContainerSpec) -> dict[str, Any]:
    """The body of the engine's update call, for limits that differ from those a waiting container has."""
    return {name: spec.host[name] for name in _UPDATABLE if spec.host[name]}


def differences(asked: Mapping[str, Any], found: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Where `inspect` tells of something else than the body of the create call: field, asked, found."""
    host, config = found["HostConfig"], found["Config"]
    pairs = [(name, value, host.get(name)) for name, value in asked["HostConfig"].items() if name != "Mounts"]
    pairs += [(name, asked[name], config.get(name)) for name in ("User", "WorkingDir", "StdinOnce") if name in asked]
    pairs += [(name, None, host.get(name)) for name in _NEVER_ASKED]
    for name, one in (("MaskedPaths", "/proc/kcore"), ("ReadonlyPaths", "/proc/sys")):
        if name in host and not host[name]:
            pairs.append((name, [one], host[name]))
    pairs += [("Mounts", *shown) for shown in _mounts(asked["HostConfig"], found)]
    unbounded = _unbounded(asked["HostConfig"], found["Mounts"])
    read_only = asked["HostConfig"].get("ReadonlyRootfs")
    pairs.append(("Mounts", [], unbounded if read_only else [path for path in unbounded if path == SHARED]))
    return [(name, wish, there) for name, wish, there in pairs if _plain(wish) != _plain(there)]


def _unbounded(host: Mapping[str, Any], mounts: Any) -> list[str]:
    """Where a container has a folder on the engine's disk that was not asked for, and that no memory is put over."""
    expected = {*host["Tmpfs"], *(mount["Target"] for mount in host["Mounts"])}
    there = [mount["Destination"] for mount in mounts if mount["Type"] not in ("bind", "tmpfs")]
    return sorted(path for path in there if path not in expected)


def _mounts(asked: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """What was asked of the mounts that show the host, and what is told: which they are, and their options."""
    told = found["HostConfig"].get("Mounts") or ()
    wanted, given = ([one for one in mounts if one["Type"] == "bind"] for mounts in (asked["Mounts"], told))
    mounted = [one for one in found["Mounts"] if one["Type"] == "bind"]
    yield (
        sorted((one["Source"], one["Target"], one["ReadOnly"]) for one in wanted),
        sorted((one.get("Source", ""), one["Destination"], not one["RW"]) for one in mounted),
    )
    yield (
        sorted((one["Target"], one["BindOptions"]["NonRecursive"]) for one in wanted),
        sorted((one["Target"], bool((one.get("BindOptions") or {}).get("NonRecursive"))) for one in given),
    )


def _plain(value: Any) -> Any:
    """Equal for what means the same to the engine: nothing, no entries, and zero."""
    if isinstance(value, list):
        ordered = sorted((_plain(item) for item in value), key=repr)
        return ordered or None
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items() if _plain(item) is not None} or None
    return value or None
