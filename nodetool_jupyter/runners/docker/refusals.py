"""What a container can't be asked for, refused before anything exists."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from ...containers import check_options
from ...errors import InvalidRequest, LimitNotHeld, ProfileRefused, name_of_limit
from ...frames import Value
from ...jobs import JobRequest, Profile, ResourceLimits
from ...quantities import LEAST_CONTAINER_MEMORY_BYTES, format_size, numbers_apart, parse_size, sizes_apart
from ...worker.values import PLAIN
from ..kernel import MOST_PROCESSES, most_open_files, most_processes
from .spec import LEAST_CPUS, LEAST_OPEN_FILES, LEAST_PIDS, PROFILE_LIMITS, ContainerSpec, holds, holds_swap

_NOTHING = "Nothing was started."
_OPTIONS = {
    "memory_bytes": "--memory {}",
    "shm_bytes": "--shm-size {}",
    "cpus": "--cpus {}",
    "pids": "--pids-limit {}",
    "open_files": "Limits(open_files={})",
}
_OF_THE_KERNEL = ("pids", "open_files")


def check_request(request: JobRequest, facts: Mapping[str, Any], *, local: bool) -> None:
    """Raise for limits that the host doesn't have, for what the profile doesn't allow, and what no container has.

    local: the engine's socket is on this machine.
    """
    if request.python:
        raise InvalidRequest(
            f"--python {request.python!r} can't be had in a container: it has its image's Python. "
            f"Choose an --image. {_NOTHING}"
        )
    check_options(request.container)
    _check_least(request.limits)
    _check_most(request.limits, facts, local=local)
    _check_tmpfs(request.container.tmpfs, facts.get("MemTotal") or math.inf)
    if request.profile is Profile.UNTRUSTED:
        _check_untrusted(request)
        _check_filtered(facts)


def _check_least(limits: ResourceLimits) -> None:
    memory, cpus, pids, files = limits.memory_bytes, limits.cpus, limits.pids, limits.open_files
    if memory is not None and memory < LEAST_CONTAINER_MEMORY_BYTES:
        raise InvalidRequest(
            f"--memory {format_size(memory)} is too little for Python itself. "
            f"Take {format_size(LEAST_CONTAINER_MEMORY_BYTES)} or more. {_NOTHING}"
        ).about("--memory")
    if cpus is not None and cpus < LEAST_CPUS:
        raise InvalidRequest(
            f"--cpus {cpus:g} is less than an engine can hold. Take {LEAST_CPUS:g} or more. {_NOTHING}"
        ).about("--cpus")
    if pids is not None and pids < LEAST_PIDS:
        raise InvalidRequest(
            f"--pids-limit {pids} is fewer than the {LEAST_PIDS} processes and threads that a container needs before "
            f"the code runs. Take {LEAST_PIDS} or more. {_NOTHING}"
        ).about("--pids-limit")
    if files is not None and files < LEAST_OPEN_FILES:
        raise InvalidRequest(
            f"Limits(open_files={files}) is fewer than the {LEAST_OPEN_FILES} that a container needs before the code "
            f"runs. Take {LEAST_OPEN_FILES} or more. {_NOTHING}"
        )


def _check_most(limits: ResourceLimits, facts: Mapping[str, Any], *, local: bool) -> None:
    asked = limits.asked()
    memory = facts.get("MemTotal")
    there = {"memory_bytes": memory, "shm_bytes": memory, "cpus": facts.get("NCPU")}
    if not asked.keys().isdisjoint(_OF_THE_KERNEL):
        there.update(most_allowed(facts, local=local))
    for name, most in there.items():
        if most and asked.get(name, 0) > most:
            wanted, there_is = _written(name, asked[name], most)
            can = "can have" if name in _OF_THE_KERNEL else "has"
            raise InvalidRequest(
                f"{_OPTIONS[name].format(wanted)} is more than the {there_is} that the engine's machine {can}. "
                f"Ask for less. {_NOTHING}"
            ).about(name_of_limit(name))


def most_allowed(facts: Mapping[str, Any], *, local: bool) -> dict[str, float]:
    """What the kernel of the engine's machine allows, as far as it is told.

    A socket of this machine may still lead to a virtual one, or further, so that the kernel must be this one by name.
    """
    here = os.uname()
    if not local or (facts.get("Name"), facts.get("KernelVersion")) != (here.nodename, here.release):
        return {"pids": MOST_PROCESSES}
    return {"pids": most_processes(), "open_files": most_open_files()}


def _written(name: str, value: float, most: float) -> tuple[str, str]:
    """Both as people write them."""
    if name in _OF_THE_KERNEL:
        return f"{value:.0f}", f"{most:.0f}"
    return sizes_apart(value, most) if name.endswith("_bytes") else numbers_apart(value, most)


def _check_tmpfs(tmpfs: Mapping[str, str], most: float) -> None:
    for place, how in tmpfs.items():
        size = next(parse_size(word[5:], "--tmpfs") for word in how.split(",") if word.startswith("size="))
        if size > most:
            raise InvalidRequest(
                f"--tmpfs {place}: {format_size(size)} is more than the {format_size(most)} of memory that the "
                f"engine's machine has. Ask for less. {_NOTHING}"
            )


def check_held(request: JobRequest, facts: Mapping[str, Any]) -> None:
    """Raise `LimitNotHeld` for what this engine can't hold of what was asked, and what untrusted code must have."""
    untrusted = request.profile is Profile.UNTRUSTED
    wanted = {*request.limits.asked(), *(PROFILE_LIMITS[request.profile] if untrusted else ())}
    lacking = wanted - set(holds(facts))
    if untrusted and not holds_swap(facts):
        raise ProfileRefused(
            "NT-D03",
            "The engine can't keep a container from using swap space beyond --memory, and profile 'untrusted' requires "
            f"it. Boot its machine with control groups v2, or with swapaccount=1. {_NOTHING}",
        )
    if lacking and (untrusted or not request.limits.best_effort):
        raise LimitNotHeld(lacking, "docker", "Run on an engine that holds it", or_without=not untrusted)


def _check_filtered(facts: Mapping[str, Any]) -> None:
    """An engine tells of its filter on system calls, and of one that was switched off."""
    told = [option for option in facts.get("SecurityOptions") or () if option.startswith("name=seccomp")]
    if not told or any("profile=unconfined" in option for option in told):
        raise ProfileRefused(
            "NT-D03",
            "The engine has no filter on system calls (seccomp), and profile 'untrusted' requires it. Start dockerd "
            f"without --seccomp-profile=unconfined, on a kernel with seccomp. {_NOTHING}",
        )


def _check_untrusted(request: JobRequest) -> None:
    options = request.container
    unfit = {
        f"--network {options.network}": options.network != "none",
        "--gpus": bool(options.gpus),
        f"--user {options.user}": not _is_nobody_special(options.user),
        "-v without :ro": any(not bind.read_only for bind in options.binds),
        f"--pull {options.pull}": options.pull == "always",
    }
    for option, given in unfit.items():
        if given:
            raise ProfileRefused(
                "NT-S03",
                f"{option} does not go with --profile untrusted. Leave it out, or use --profile default. {_NOTHING}",
            ).about(option.split()[0])


def _is_nobody_special(user: str) -> bool:
    """A number that is not root's; what a name means is the image's to say."""
    ids = user.split(":")
    return not user or all(id_.isdigit() and int(id_) != 0 for id_ in ids)


def minor(version: str) -> str:
    """3.11 of 3.11.7."""
    return ".".join(version.split(".")[:2])


def other_python(version: str) -> str:
    """The version, if its minor one is not this interpreter's; else ""."""
    return version if version and minor(version) != minor(platform.python_version()) else ""


def code_for_another(inputs: Sequence[Value], version: str) -> str:
    """Why inputs that were made for this Python can't be read by the container's; "" when they can."""
    unfit = [value for value in inputs if value.format == "pickle"]
    if not unfit or not other_python(version):
        return ""
    return (
        f"Variable {unfit[0].name!r} ({unfit[0].type_name}) can't be sent into the job: between Python "
        f"{platform.python_version()} here and {version} there only {PLAIN} travel. "
        f"Send one of these, or take an --image with Python {minor(platform.python_version())}."
    )


def no_python(spec: ContainerSpec) -> str:
    """Why a container finds no python3: its image has none, or something was laid over it."""
    if spec.covered:
        places = ", ".join(spec.covered)
        return (
            f"The container finds no python3: the image has none, or what lies over {places} (-v, --tmpfs, or a volume "
            "that the image declares) hides it. Show that elsewhere, or choose an --image with CPython 3.11 or newer."
        )
    return "The image has no python3. Choose an --image with CPython 3.11 or newer."
