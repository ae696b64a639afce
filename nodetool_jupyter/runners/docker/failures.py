"""Why an engine did not make or start a container: its words, and those of what it starts with, as a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable

from ...quantities import format_size
from ..base import WorkerNotStarted
from .engine import NOT_ALLOWED, EngineRefused, EngineUnavailable
from .refusals import no_python
from .spec import ContainerSpec

_AROUND = re.compile(
    r"\A(?:Cannot (?:start|update) container \w+: |failed to create (?:shim )?task(?: for container)?: "
    r"|OCI runtime create failed: |runc create failed: |runc did not terminate successfully: exit status \d+: "
    r"|unable to start container process: |error during container init: |container_linux\.go:\d+: )+"
)
_NO_IMAGE = "The image was removed while the job was about to start. Run the cell again."
_NO_GPU = (
    "The engine has no GPU runtime, so --gpus can't be held. Install the NVIDIA driver and "
    "nvidia-container-toolkit on the engine's machine, then restart it; or leave --gpus out."
)


def not_started(error: Exception, spec: ContainerSpec) -> WorkerNotStarted:
    """What to raise for what the engine said of a container that was to be like this."""
    if isinstance(error, EngineUnavailable):
        return WorkerNotStarted(str(error))
    text = str(error).strip().rstrip(".")
    for pattern, sentence, option in _KNOWN:
        if pattern.search(text):
            return WorkerNotStarted(sentence(spec), options=(option,) if option else ())
    if isinstance(error, EngineRefused) and error.status in NOT_ALLOWED:
        return WorkerNotStarted(
            f"The engine, or a proxy before it, does not let containers be made and started from here: {text}. Have it "
            "let these calls pass, or set DOCKER_HOST to another engine."
        )
    why = _AROUND.sub("", text).removesuffix(": unknown")
    return WorkerNotStarted(f"The engine refused the container: {why}. Change what it names, and run the cell again.")


def _no_user(spec: ContainerSpec) -> str:
    return f"The image has no user {spec.config['User']!r}. Give a number with --user, as in --user 1000:1000."


def _no_network(spec: ContainerSpec) -> str:
    name = spec.host["NetworkMode"]
    if name.startswith("nodetool-"):
        return "The network of this kernel's containers was removed. Run the cell again: it is made anew."
    return f"--network {name}: the engine has no such network. `docker network ls` lists those that it has."


def _too_many_processes(spec: ContainerSpec) -> str:
    return (
        f"--pids-limit {spec.limits.get('pids', 0):.0f} is more than the kernel of the engine's machine takes. "
        "Ask for less."
    )


def _too_many_files(spec: ContainerSpec) -> str:
    return (
        f"Limits(open_files={spec.limits.get('open_files', 0):.0f}) is more than the engine's machine lets a container "
        "have (its fs.nr_open, and the engine's own limit). Ask for less."
    )


def _too_few_files(spec: ContainerSpec) -> str:
    return (
        f"Limits(open_files={spec.limits.get('open_files', 0):.0f}) is too few for a container to start. Ask for more."
    )


def _memory_in_use(spec: ContainerSpec) -> str:
    return (
        f"--memory {format_size(spec.limits.get('memory_bytes', 0))} is less than the container has in use before the "
        "code runs. Ask for more."
    )


def _odd_processors(spec: ContainerSpec) -> str:
    return (
        f"--cpus {spec.limits.get('cpus', 0):g} is not taken by the kernel of the engine's machine. Ask for a bit more."
    )


def _covers_a_file(spec: ContainerSpec) -> str:
    places = ", ".join(spec.covered)
    return f"What is to lie over {places} (-v, --tmpfs) would cover a file with a folder, or the reverse. Take others."


def _no_folder(spec: ContainerSpec) -> str:
    return f"--workdir {spec.config['WorkingDir']!r} is a file in the image, or lies in one. Name a folder."


_KNOWN: tuple[tuple[re.Pattern[str], Callable[[ContainerSpec], str], str], ...] = tuple(
    (re.compile(pattern), sentence, option)
    for pattern, sentence, option in (
        (r"could not select device driver|nvidia-container", lambda spec: _NO_GPU, "--gpus"),
        (r"unable to find (?:user|group)", _no_user, "--user"),
        (r"network.*not found", _no_network, "--network"),
        (r"pids\.max.*(?:invalid argument|out of range)", _too_many_processes, "--pids-limit"),
        (r"rlimit type 7|RLIMIT_NOFILE", _too_many_files, ""),
        (r"too many open files", _too_few_files, ""),
        (r"cpu\.(?:cfs_quota_us|max).*invalid argument", _odd_processors, "--cpus"),
        (r"memory\.(?:limit_in_bytes|max).*busy|unable to set memory limit", _memory_in_use, "--memory"),
        (r"(?:[Cc]annot mkdir|chdir to cwd|lstat).*not a directory", _no_folder, ""),
        (r"mount.*not a directory", _covers_a_file, ""),
        (r"python3.*(?:not found|no such file)", no_python, ""),
        (r"[Nn]o such image", lambda spec: _NO_IMAGE, ""),
    )
)
"""What is said, the sentence for it, and the option that it is about."""
