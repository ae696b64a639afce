"""What works with containers here: the engine, the default image, and what of an image fits the GPUs' driver."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..containers import ContainerOptions
from ..errors import InvalidRequest
from ..quantities import format_size
from ..runners.docker.engine import EngineRefused, EngineUnavailable
from ..runners.docker.runner import DockerRunner
from ..runners.docker.versions import DRIVER, driver_version, newest_cuda, too_new

_WIDTH = 17


def engine_report(runner: DockerRunner, image: str, pull: str) -> Iterator[str]:
    """The engine and the image of jobs that name none. Says what is wrong instead of raising it."""
    try:
        facts = runner.engine.facts()
        version = runner.engine.ask(lambda client: client.version())
    except (EngineUnavailable, EngineRefused) as error:
        yield f"! {error}"
        return
    yield _row("engine", f"{version.get('Version')}, API {version.get('ApiVersion')}, at {runner.engine.url}")
    yield _row("storage driver", facts.get("Driver"))
    yield _row("control groups", f"version {facts.get('CgroupVersion', '1')}, driver {facts.get('CgroupDriver')}")
    yield _row("security", ", ".join(_security(facts)) or "none of seccomp, AppArmor, SELinux, rootless")
    yield _row("GPU runtime", "nvidia" if "nvidia" in facts.get("Runtimes", {}) else "none, and --gpus is refused")
    try:
        yield from _default_image(runner, image, pull)
        yield from _built(runner)
    except (EngineUnavailable, EngineRefused, InvalidRequest) as error:
        yield f"! {error}"


def image_report(runner: DockerRunner, name: str, driver_file: Path = DRIVER) -> Iterator[str]:
    """What GPU software an image has, beside what this machine's driver can run. Raises a `Refused`."""
    image = runner.images.find(ContainerOptions(image=name))
    if image is None:
        raise InvalidRequest(f"Image {name!r} is not on this machine. Pull it first (docker pull {name}).")
    try:
        found = runner.look_into(image.id)
    except EngineRefused as error:
        raise InvalidRequest(f"Image {name!r} can't be looked into: {str(error).rstrip('.')}.") from None
    driver = driver_version(driver_file)
    most = newest_cuda(driver)
    yield _row("image", f"{name} ({image.id[7:19]})")
    yield _row("driver", f"{driver}, CUDA up to {most or '9'}" if driver else "none on this machine: no GPU is there")
    if not found:
        yield _row("GPU software", "none found: no CUDA, no cuDNN, and no framework that would use them")
    for one in found:
        why = too_new(one.cuda, driver)
        for_cuda = f", for CUDA {one.cuda}" if one.cuda and one.name != "CUDA" else ""
        yield f"{'! ' * bool(why)}{_row(one.name, f'{one.version}{for_cuda}')}{f' - {why}' if why else ''}"


def _row(name: str, value: Any) -> str:
    return f"{name:<{_WIDTH}} {value}"


def _security(facts: Mapping[str, Any]) -> list[str]:
    """The names in `name=seccomp,profile=builtin`."""
    return [option.split(",")[0].removeprefix("name=") for option in facts.get("SecurityOptions") or ()]


def _default_image(runner: DockerRunner, name: str, pull: str) -> Iterator[str]:
    image = runner.images.find(ContainerOptions(image=name))
    if image is None:
        how = "and is not fetched (--pull never)" if pull == "never" else "and the first job that needs it fetches it"
        yield _row("default image", f"{name} is not here yet, {how}")
        return
    version = runner.python_of(image)
    yield _row("default image", f"{name} ({image.id[7:19]}), Python {version or 'none'}")
    here = ".".join(platform.python_version_tuple()[:2])
    if not version:
        yield f"! Image {name} has no python3 that runs. Set another with `%nodetool config docker_image NAME:TAG`."
    elif version.split(".")[:2] != here.split("."):
        yield (
            f"! Image {name} has Python {version} and the kernel {here}: functions and classes of the notebook don't "
            f"travel. `%nodetool config docker_image python:{here}-slim` takes one that fits."
        )


def _built(runner: DockerRunner) -> Iterator[str]:
    for one in runner.built_images():
        labels = one["Labels"]
        tag = (one.get("RepoTags") or [one["Id"][7:19]])[0]
        on = labels.get("nodetool.base", "")
        wanted = labels.get("nodetool.requirements", "")
        yield _row("built image", f"{tag}, {format_size(one['Size'])}: {wanted} on {on}")
