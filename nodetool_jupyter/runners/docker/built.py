"""Images with a job's requirements in them: built once for what goes in, without a network, and kept by a label."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ... import places
from ...events import NodeProgress
from ...jobs import Job
from ..base import WorkerNotStarted
from . import wheels
from .engine import LONG_SECONDS, CallOff, Engine
from .images import Image
from .leases import alone
from .leftovers import BUILT_LABEL, OWNER_LABEL
from .probe import LOG, Python, check_applied, ends, probe
from .spec import SHARED, helper_host

REPOSITORY = "nodetool/built"
LEASE = "image-"
_RECIPE = 1
_PLACE = "/mnt"
_BAR = "image"
_BUILD_SECONDS = 600.0
_CHUNK_BYTES = 1 << 20
_INSTALL = [
    *("python3", "-I", f"{_PLACE}/pip.zip/pip", "--isolated", "install", "--no-index", f"--find-links={_PLACE}"),
    *("--no-cache-dir", "--no-input", "--disable-pip-version-check", "--no-color", "--progress-bar=off"),
    *("--root-user-action=ignore", "--break-system-packages", "--no-warn-script-location"),
    *("--requirement", f"{_PLACE}/requirements.txt"),
]
_LIMITS = {"memory_bytes": 4 << 30, "cpus": 2.0, "pids": 512}
_HOST: Mapping[str, Any] = {
    "Init": True,
    "LogConfig": LOG,
    "Tmpfs": {"/tmp": "rw,nosuid,nodev,size=512m", SHARED: "rw,nosuid,nodev,noexec,size=64m"},  # noqa: S108 - its own
    # what is put here is not part of the image, and goes with the container
    "Mounts": [{"Type": "volume", "Target": _PLACE, "VolumeOptions": {"NoCopy": True}}],
}
Say = Callable[[NodeProgress], object]


class Built(NamedTuple):
    """An image that was made for a job's requirements."""

    id: str
    name: str


class Builder:
    """Makes images for `ContainerOptions.requirements`; from any thread. labels: of the containers that install.

    make_room: called before there is a container of ours.
    """

    def __init__(
        self,
        engine: Engine,
        environ: Mapping[str, str],
        labels: Mapping[str, str],
        *,
        make_room: Callable[[CallOff], object] = lambda stop: None,
    ) -> None:
        self._engine = engine
        self._make_room = make_room
        self._environ = dict(environ)
        self._labels = dict(labels)
        self._pythons: dict[str, Python] = {}

    def get(self, base: Image, job: Job, *, say: Say, stop: CallOff) -> Built:
        """The image with the job's requirements, built if it isn't there.

        Installing takes no longer than the job may run, and than `_BUILD_SECONDS`. Blocks.
        Raises `WorkerNotStarted`, `EngineUnavailable`, `EngineRefused`; then nothing is left.
        """
        python = self._pythons.get(base.id)
        if python is None:
            self._make_room(stop)
            python = self._pythons.setdefault(base.id, probe(self._engine, base.id, self._labels, stop))
        if not python.version:
            raise WorkerNotStarted(
                f"Image {base.name!r} has no python3 that could take the requirements. Choose an --image with one."
            )
        recipe = recipe_of(base.id, python, job.request.container.requirements)
        if found := self._find(recipe):
            return Built(found, _name(recipe))
        with alone(f"{LEASE}{recipe}", stop):
            found = self._find(recipe) or self._build(base, python, recipe, job, say=say, stop=stop)
        return Built(found, _name(recipe))

    def _find(self, recipe: str) -> str:
        """The image that was built here: others may carry the label, and are not fetched under that name by chance."""
        filters, name = {"label": f"{BUILT_LABEL}={recipe}"}, _name(recipe)
        found = self._engine.ask(lambda client: client.images(filters=filters))
        return next((str(one["Id"]) for one in found if name in (one.get("RepoTags") or ())), "")

    def _build(self, base: Image, python: Python, recipe: str, job: Job, *, say: Say, stop: CallOff) -> str:
        requirements = job.request.container.requirements
        folder = places.job_folder(self._labels[OWNER_LABEL], job.id)
        steps = _Steps(say)
        try:
            file = folder / "requirements.txt"
            file.write_text("".join(f"{line}\n" for line in requirements))
            found = wheels.fetch(file, python, folder / "wheels", self._environ, say=steps.fetching, stop=stop)
            (folder / "pip.zip").write_bytes(wheels.installer())
            self._make_room(stop)
            with _container(self._engine, base, self._labels) as container:
                wheel_count = f"{len(found)} {'wheel' if len(found) == 1 else 'wheels'}"
                steps.say(f"copy {wheel_count}")
                self._put(container, [file, folder / "pip.zip", *found], stop)
                steps.say(f"install {wheel_count}")
                self._install(container, job.request.limits.wall_seconds, stop)
                image = self._commit(container, base, recipe, requirements)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # other jobs of ours have theirs in it
                folder.parent.rmdir()
        steps.done()
        return image

    def _put(self, container: str, files: list[Path], stop: CallOff) -> None:
        self._engine.ask(
            lambda client: client.put_archive(container, _PLACE, _archive(files, stop)), seconds=_BUILD_SECONDS
        )

    def _install(self, container: str, seconds: float | None, stop: CallOff) -> None:
        self._engine.ask(lambda client: client.start(container), seconds=LONG_SECONDS)
        most = min(_BUILD_SECONDS, seconds or _BUILD_SECONDS)
        if not ends(self._engine, container, seconds=most, stop=stop):
            how = "more --timeout" if most < _BUILD_SECONDS else "fewer --requirements"
            raise WorkerNotStarted(
                f"The requirements were not installed into the image within {most:g} s. Give it {how}, or choose "
                "another --image. Nothing was left behind."
            )
        state = self._engine.ask(lambda client: client.inspect_container(container))["State"]
        if state["ExitCode"] != 0:
            said = self._engine.ask(lambda client: client.logs(container)).decode("utf-8", "replace")
            raise WorkerNotStarted(_not_installed(said, oom=state["OOMKilled"]))

    def _commit(self, container: str, base: Image, recipe: str, requirements: tuple[str, ...]) -> str:
        """The base's own settings, and labels that tell what it is; an image is nobody's, so it carries no owner."""
        found = self._engine.ask(lambda client: client.inspect_image(base.id))
        config = dict(found.get("Config") or {})
        config["Labels"] = {
            **(config.get("Labels") or {}),
            **dict.fromkeys(self._labels, ""),
            BUILT_LABEL: recipe,
            "nodetool.base": base.name,
            "nodetool.requirements": " ".join(requirements),
        }
        made = self._engine.ask(
            lambda client: client.commit(container, *_name(recipe).split(":"), conf=config), seconds=_BUILD_SECONDS
        )
        return str(made["Id"])


def recipe_of(base: str, python: Python, requirements: tuple[str, ...]) -> str:
    """Equal for what makes the same image. base: its id."""
    what = [_RECIPE, base, python.version, python.abi, python.platforms, sorted(set(requirements))]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _name(recipe: str) -> str:
    return f"{REPOSITORY}:{recipe[:12]}"


class _Steps:
    """How far it is, on the job's card."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._names: dict[str, None] = {}

    def fetching(self, name: str) -> None:
        if name not in self._names:
            self._names[name] = None
            self.say(f"fetch {name}")

    def say(self, label: str) -> None:
        self._say(NodeProgress(node_id=_BAR, bar=_BAR, progress=len(self._names), label=f"image: {label}"))

    def done(self) -> None:
        self._say(NodeProgress(node_id=_BAR, bar=_BAR, progress=1, total=1, label="image: built", closed=True))


class _container:  # noqa: N801 - used as a block
    """A container that installs when it is started; removed with its volume when the block is left."""

    def __init__(self, engine: Engine, base: Image, labels: Mapping[str, str]) -> None:
        self._engine = engine
        self._config = {
            "Image": base.id,
            "Entrypoint": [],
            "Cmd": _INSTALL,
            "User": "0:0",
            "Labels": dict(labels),
            "HostConfig": {**helper_host(engine.facts(), _LIMITS), **_HOST},
        }
        self._id = ""

    def __enter__(self) -> str:
        self._id = str(self._engine.create(self._config)["Id"])
        try:
            check_applied(self._engine, self._id, self._config)
        except BaseException:
            self._engine.remove(self._id)
            raise
        return self._id

    def __exit__(self, *exception: object) -> None:
        self._engine.remove(self._id)


def _archive(files: list[Path], stop: CallOff) -> Iterator[bytes]:
    """The files as a tar stream."""
    for path in files:
        info = tarfile.TarInfo(path.name)
        info.size = path.stat().st_size
        yield info.tobuf()
        with path.open("rb") as file:
            yield from _pieces(file, stop)
        yield bytes(-info.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _pieces(file: BinaryIO, stop: CallOff) -> Iterator[bytes]:
    while piece := file.read(_CHUNK_BYTES):
        if stop.is_set():
            raise WorkerNotStarted("The build was called off.")
        yield piece


def _not_installed(said: str, *, oom: bool) -> str:
    errors = [line.removeprefix("ERROR:").strip() for line in said.splitlines() if line.startswith("ERROR:")]
    why = "it took more memory than 4 GiB" if oom else (errors or said.splitlines() or ["it said nothing"])[-1].strip()
    return (
        f"The requirements can't be installed into the image: {why.rstrip('.')}. Change --requirements or --image. "
        "Nothing was left behind."
    )
