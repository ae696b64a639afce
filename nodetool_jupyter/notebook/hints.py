"""A sentence more for failures whose cause lies in how the job was started."""

from __future__ import annotations

import os
import re

from ..config import environment, job_environment
from ..containers import WORKDIR, ContainerOptions
from ..jobs import JobRequest, Profile

_MISSING_FILE = re.compile(r"FileNotFoundError: .*: '([^']+)'\Z")
_MISSING_MODULE = re.compile(r"ModuleNotFoundError: No module named '([A-Za-z]\w*)[^']*'\Z")
_NO_RIGHT = re.compile(r"PermissionError: .*: '([^']+)'\Z")
_KEY_ERROR = re.compile(r"KeyError: '(\w+)'\Z")
_NO_NETWORK = re.compile(r"Network is unreachable|[Nn]ame resolution|Name or service not known|Failed to resolve")
_NO_LOOP = re.compile(r"RuntimeError: (no running event loop|There is no current event loop in thread .*)\Z")
_NO_FILE = re.compile(r"(FileNotFoundError|ModuleNotFoundError): ")


def with_hint(message: str, request: JobRequest) -> str:
    """The message and, for what the job could not have, how it can: network, files, a variable, an event loop."""
    if _NO_LOOP.match(message):
        return (
            f"{message}. The cell of a job runs on an event loop when it awaits something: "
            "await this call, or add the line `await asyncio.sleep(0)` to the cell."
        )
    if request.profile is Profile.UNTRUSTED:
        if _NO_NETWORK.search(message):
            return (
                f"{message}. The untrusted profile has no network. Fetch what the code needs first, pass it with --in."
            )
        if _NO_FILE.match(message) and not (request.runner == "docker" and _MISSING_MODULE.match(message)):
            return f"{message}. The untrusted profile sees no files of yours. Pass what the code needs with --in."
    if request.runner == "docker":
        if _NO_NETWORK.search(message) and request.container.network == "none":
            return f"{message}. The container has no network; --network bridge gives it one."
        if module := _MISSING_MODULE.match(message):
            return (
                f"{message}. The container has its image's packages, not this kernel's. "
                f"Add --requirements {module[1]}, or choose an --image that has it."
            )
        if missing := _MISSING_FILE.match(message):
            shown = _mount(missing[1], request.container.workdir)
            return f"{message}. A container sees none of this machine's files; show it this one with -v {shown}."
        denied = _NO_RIGHT.match(message)
        if denied and _in_roots_folder(denied[1], request.container):
            folder = request.container.workdir
            return (
                f"{message}. {folder} is the image's or was made for -w, and belongs to root. "
                f"Add --tmpfs {folder}:size=1g, or run in {WORKDIR} without -w."
            )
    found = _KEY_ERROR.match(message)
    if found is None or request.runner == "threaded":
        return message
    name, environ = found[1], environment()
    if name not in environ or name in job_environment(environ, request):
        return message
    return f"{message}. The kernel's environment has {name}; pass it with -e {name}."


def _in_roots_folder(path: str, options: ContainerOptions) -> bool:
    """Whether it lies in a folder named with -w that nothing is mounted at."""
    workdir = options.workdir
    mounted = {WORKDIR, *options.tmpfs, *(bind.target for bind in options.binds)}
    return workdir not in mounted and os.path.normpath(os.path.join(workdir, path)).startswith(f"{workdir}/")


def _mount(path: str, workdir: str) -> str:
    """A mount that would show this path where the code looks for it."""
    if path.startswith("/"):
        folder = os.path.dirname(path)
        return f"{folder}:{folder}:ro" if folder != "/" else f"{path}:{path}:ro"
    return f"./{os.path.normpath(path)}:{os.path.normpath(os.path.join(workdir, path))}:ro"
