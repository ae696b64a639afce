"""What works here: versions, the store, and what each runner can hold."""

from __future__ import annotations

import platform
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import InvalidRequest, NodetoolError, Refused, RunnerUnavailable, name_of_limit
from ..jobs import LIMIT_NAMES, CodeWork, JobRequest, Profile
from ..runners.base import Runner

if TYPE_CHECKING:
    from ..manager import JobExecutionManager
    from .session import Session

_PACKAGES = (
    "ipython",
    "ipykernel",
    "ipywidgets",
    "anywidget",
    "jupyterlab",
    "notebook",
    "cloudpickle",
    "docker",
    "msgspec",
    "sqlalchemy",
)
_PASSWORD = re.compile(r"([?&](?:ssl)?password=)[^&]*", re.IGNORECASE)
_GOOD_IPYKERNEL = (7, 4)
_BOUNDARIES = {"subprocess": "in a sandbox", "docker": "in a container"}


def report(session: Session) -> str:
    """The whole report. Starts the manager, so that the store is really tried."""
    found = [*_versions(), "", *_kernel(), ""]
    try:
        manager = session.manager
    except InvalidRequest as error:  # a setting that can't be read
        return "\n".join([*found, f"! {error}"])
    engine = _docker(manager)
    runners = [line for line in _runners(manager) if line not in engine]  # what keeps docker from running is said once
    return "\n".join([*found, *_store(manager), "", *engine, *([""] if engine else []), *runners])


def image_report(session: Session, image: str) -> str:
    """What an image has for GPUs, and whether this machine's driver takes it. Raises a `Refused`."""
    from ..runners.docker.runner import DockerRunner
    from .doctor_docker import image_report as about

    runner = session.manager.runner("docker")
    return "\n".join(about(runner, image)) if isinstance(runner, DockerRunner) else ""


def _docker(manager: JobExecutionManager) -> list[str]:
    from ..runners.docker.runner import DockerRunner
    from .doctor_docker import engine_report

    runner = manager.runners.get("docker")
    if not isinstance(runner, DockerRunner):
        return []
    settings = manager.settings
    unread = [f"! {why} Jobs in containers are refused where it counts." for why in settings.unread.values()]
    image, pull = settings.or_default("docker_image"), settings.or_default("docker_pull")
    return [*unread, *engine_report(runner, image, pull)]


def _versions() -> Iterator[str]:
    bubblewrap = shutil.which("bwrap")
    yield f"nodetool_jupyter  {__version__}"
    yield f"python            {platform.python_version()} ({sys.executable})"
    yield f"system            {platform.system()} {platform.release()} {platform.machine()}"
    for name in _PACKAGES:
        yield f"{name:<17} {_version(name) or 'not installed'}"
    yield f"bubblewrap        {bubblewrap or 'not installed; untrusted subprocess jobs need it'}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _kernel() -> Iterator[str]:
    found = _version("ipykernel")
    numbers = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    if numbers and numbers < _GOOD_IPYKERNEL and numbers[0] >= 7:
        yield f"! ipykernel {found} can hang while widgets are used in a running cell. Install ipykernel 7.4 or newer."
    elif numbers and numbers[0] < 7:
        yield f"! With ipykernel {found} Cancel on a card waits for the cell. Interrupt instead, or install 7.4."
    else:
        yield "ok buttons of a card work while its cell runs"


def _store(manager: JobExecutionManager) -> Iterator[str]:
    where = manager.settings.database_url
    yield f"jobs are kept in  {without_password(where) if where else 'memory (ENV=test), and are gone with it'}"
    try:
        count = len(manager.find(limit=10_000))
    except NodetoolError as error:
        yield f"! No job can be run until this is mended: {error}"
        return
    yield f"ok {count} jobs of {manager.owner.user} are there"
    for sentence in manager.warnings:
        yield f"! {sentence}"


def without_password(url: str) -> str:
    """The URL of a database as it may be shown."""
    url = _PASSWORD.sub(r"\1…", url)
    scheme, found, rest = url.partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}{found}{user.partition(':')[0]}:…@{place}" if at and ":" in user else url


def _runners(manager: JobExecutionManager) -> Iterator[str]:
    for name, runner in manager.runners.items():
        try:
            runner.check(JobRequest(work=CodeWork("pass"), runner=name))
        except RunnerUnavailable as error:
            yield f"! {error}"
            continue
        except Refused as error:
            yield f"! {name}: {error}"
            continue
        yield f"ok {name}"
        holds = runner.holds()
        for limit in LIMIT_NAMES:
            how = holds.get(limit, "not held here; asking for it is refused")
            yield f"     {name_of_limit(limit):<16} {how}"
        yield f"     {'untrusted code':<16} {_refusal(runner, name) or _BOUNDARIES.get(name, '')}"


def _refusal(runner: Runner, name: str) -> str:
    try:
        runner.check(JobRequest(work=CodeWork("pass"), runner=name, profile=Profile.UNTRUSTED))
    except Refused as error:
        return str(error)
    return ""
