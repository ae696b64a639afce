"""A sentence more for failures whose cause lies in how the job was started."""

from __future__ import annotations

import os
import re
import sysconfig
from importlib.util import find_spec

from ..config import environment, job_environment
from ..containers import WORKDIR, ContainerOptions
from ..jobs import JobRequest, Profile

_MISSING_FILE = re.compile(r"FileNotFoundError: .*: '([^']+)'\Z")
_MISSING_MODULE = re.compile(r"ModuleNotFoundError: No module named '([A-Za-z]\w*)[^']*'\Z")
_NOT_THERE = re.compile(r"(.*its Python has no module '([A-Za-z]\w*)[^']*')\. Install it there")
_NO_RIGHT = re.compile(r"PermissionError: .*: '([^']+)'\Z")
_KEY_ERROR = re.compile(r"KeyError: '(\w+)'\Z")
_NO_NETWORK = re.compile(r"Network is unreachable|[Nn]ame resolution|Name or service not known|Failed to resolve")
_NO_LOOP = re.compile(r"RuntimeError: (no running event loop|There is no current event loop in thread .*)\Z")
_CHAINED = re.compile(r"(?:direct cause of the following exception|another exception occurred):")
_NO_FILE = re.compile(r"(FileNotFoundError|ModuleNotFoundError): ")


def with_hint(message: str, request: JobRequest, traceback: str = "") -> str:
    """The message and, for what the job could not have, how it can: network, files, a variable, an event loop."""
    if _NO_LOOP.match(message):
        return (
            f"{message}. The cell of a job runs on an event loop when it awaits something: "
            "await this call, or add the line `await asyncio.sleep(0)` to the cell."
        )
    command = _MISSING_FILE.match(message) if "_execute_child" in _CHAINED.split(traceback)[-1] else None
    if command and not _is_ones_own(command[1]):
        lacking = f"{message}. The image lacks {command[1]!r}. Choose an --image that has it."
        return lacking if request.runner == "docker" else message
    if request.profile is Profile.UNTRUSTED:
        if _NO_NETWORK.search(message):
            return (
                f"{message}. The untrusted profile has no network. Fetch what the code needs first, pass it with --in."
            )
        if _NO_FILE.match(message) and not (request.runner == "docker" and _MISSING_MODULE.match(message)):
            return f"{message}. The untrusted profile sees no files of yours. Pass what the code needs with --in."
    unreadable = _NOT_THERE.match(message)
    if unreadable and request.runner == "docker":
        package = f"Add --requirements {unreadable[2]}, choose an --image that has it, or send plain data."
        return f"{unreadable[1]}. {_ones_own_module(unreadable[2], request.container) or package}"
    if request.runner == "docker" and (hint := _in_container(message, request.container)):
        return f"{message}. {hint}"
    found = _KEY_ERROR.match(message)
    if found is None or request.runner == "threaded":
        return message
    name, environ = found[1], environment()
    if name not in environ or name in job_environment(environ, request):
        return message
    return f"{message}. The kernel's environment has {name}; pass it with -e {name}."


def _is_ones_own(command: str) -> bool:
    """Whether it is a file of the person's, and not one that comes with a system."""
    return "/" in command and os.path.exists(command) and not command.startswith(("/bin/", "/sbin/", "/usr/"))


def _in_container(message: str, options: ContainerOptions) -> str:
    """How a container gets what it has not; "" where nothing would help."""
    if _NO_NETWORK.search(message) and options.network == "none":
        return "The container has no network; --network bridge gives it one."
    if module := _MISSING_MODULE.match(message):
        if module[1] == __package__.partition(".")[0]:
            return "Jobs are started from the notebook, not from within a job."
        return _ones_own_module(module[1], options) or (
            "The container has its image's packages, not this kernel's. "
            f"Add --requirements {module[1]}, or choose an --image that has it."
        )
    missing, denied = _MISSING_FILE.match(message), _NO_RIGHT.match(message)
    if missing and os.path.exists(missing[1]):
        shown = _mount(missing[1], options.workdir)
        return f"A container sees none of this machine's files; show it this one with -v {shown}."
    return _about_right(denied[1], options) if denied else ""


def _ones_own_module(name: str, options: ContainerOptions) -> str:
    """How a container gets a module that is no package of an index but a file of the person's; "" for any other."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return ""
    origin = (spec.origin or "") if spec is not None else ""
    installed = {"site-packages", "dist-packages"}.intersection(origin.split(os.sep))
    if not os.path.isfile(origin) or installed or origin.startswith(sysconfig.get_path("stdlib") + os.sep):
        return ""
    path = os.path.dirname(origin) if spec is not None and spec.submodule_search_locations else origin
    shown = f"{path}:{options.workdir}/{os.path.basename(path)}:ro"
    return f"{name!r} is a module of yours, which the container doesn't see; show it with -v {shown}."


def _about_right(path: str, options: ContainerOptions) -> str:
    """Who may go there."""
    target = os.path.normpath(os.path.join(options.workdir, path))
    above = [bind for bind in options.binds if f"{target}/".startswith(f"{bind.target.rstrip('/')}/")]
    if above:
        bind = max(above, key=lambda bind: len(bind.target))
        return _whose(os.path.normpath(os.path.join(bind.source, os.path.relpath(target, bind.target))), options)
    if _in_roots_folder(target, options):
        return (
            f"{options.workdir} is the image's or was made for -w, and belongs to root. "
            f"Add --tmpfs {options.workdir}:size=1g, or run in {WORKDIR} without -w."
        )
    return ""


def _whose(path: str, options: ContainerOptions) -> str:
    """Whose a place is that was shown with -v, or the nearest above it, and how the job may go there."""
    while not os.path.lexists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    found = os.lstat(path)
    owner = f"{found.st_uid}:{found.st_gid}"
    mine = f"user {options.user}" if options.user else "user 65534, unless the image names one"
    remedy = f"Add --user {owner}, or let the job's user go there with chown or chmod."
    if found.st_uid == 0:  # root is nobody to suggest
        remedy = "Let the job's user go there with chown or chmod, or show a folder of yours, with --user UID:GID."
    return f"The job runs as {mine}, and {path} belongs to {owner}. {remedy}"


def _in_roots_folder(target: str, options: ContainerOptions) -> bool:
    """Whether it lies in a folder named with -w that nothing is mounted at."""
    workdir = options.workdir
    mounted = {WORKDIR, *options.tmpfs, *(bind.target for bind in options.binds)}
    return workdir not in mounted and target.startswith(f"{workdir}/")


def _mount(path: str, workdir: str) -> str:
    """A mount that would show this path where the code looks for it."""
    if path.startswith("/"):
        folder = os.path.dirname(path)
        return f"{folder}:{folder}:ro" if folder != "/" else f"{path}:{path}:ro"
    return f"./{os.path.normpath(path)}:{os.path.normpath(os.path.join(workdir, path))}:ro"
