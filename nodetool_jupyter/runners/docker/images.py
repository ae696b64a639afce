"""Images: which one a name means, when it is fetched, what is in it."""

from __future__ import annotations

import math
import posixpath
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from ...containers import ContainerOptions, default_image, is_pinned
from ...errors import InvalidRequest, Refused
from ...events import NodeProgress
from ..base import WorkerNotStarted
from .engine import NOT_ALLOWED, CallOff, Engine, EngineRefused
from .lines import Line

_KNOWN_SECONDS = 5.0
_TOLD_SECONDS = 1.0  # what the engine told a moment before a change may come here after it
_PULL_SILENCE_SECONDS = 300.0
_BAR = "pull"
_MOST_SHOWN = 60
_VERSION = re.compile(r"[0-9A-Za-z.+]{1,32}\Z")
_UNREACHABLE = ("dial tcp", "no such host", "i/o timeout", "connection refused", "Client.Timeout")
_UNKNOWN = ("unauthorized", "no basic auth credentials", "denied", "authentication required", "incorrect username")
_TOO_MANY = ("toomanyrequests", "Too Many Requests", "too many requests", "rate limit")
_NOT_THERE = ("not found", "does not exist", "manifest unknown")


@dataclass(frozen=True)
class Image:
    """An image of the engine: its name as asked for, its id, the digest under which a registry knows it.

    volumes: the folders that it declares to be kept outside of it. built: the name of the one that was made of it for
    a job's requirements.
    """

    name: str
    id: str
    digest: str = ""
    user: str = ""
    python: str = ""
    volumes: tuple[str, ...] = ()
    built: str = ""


class ImageMissing(Refused):
    """The image is not there, and may not be fetched."""

    code = "NT-D02"
    options = ("--pull",)

    def __init__(self, name: str, pinned: str = "") -> None:
        where = f"Image {name!r} is not on this machine. Pull it yourself (docker pull {name}) or set --pull missing."
        if pinned:
            where = (
                f"The image that the job ran with, {pinned[7:19]}, is not in the engine any more. "
                f"Add --image {name} to run with what that name means now."
            )
        super().__init__(f"{where} Nothing was started. [NT-D02]")


class NoImageName(InvalidRequest):
    """No image can be called so."""

    options = ("--image",)

    def __init__(self, name: str) -> None:
        super().__init__(
            f"--image {name!r} is no image's name. Write NAME:TAG in small letters, as in {default_image()}. "
            "Nothing was started."
        )


class Images:
    """What is known of the engine's images; from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[str, tuple[float, Image]] = {}
        self._sure_from = math.inf
        self._pythons: dict[str, str] = {}

    def watched(self) -> None:
        """From now on whoever sees a change calls `changed`, until `unwatched`."""
        self._sure_from = time.monotonic() + _TOLD_SECONDS

    def changed(self) -> None:
        """Something became of an image: all are looked up anew."""
        self.watched()
        self._known.clear()

    def unwatched(self) -> None:
        """Nobody tells of changes any more."""
        self._sure_from = math.inf

    def find(self, options: ContainerOptions) -> Image | None:
        """The image if it is there; looked up anew after some seconds, or a change. Raises `EngineUnavailable`.

        Raises `InvalidRequest` for a name that no image can have, and an image that no container can be made of.
        """
        name = options.pinned or options.image or default_image()
        known, now = self._known.get(name), time.monotonic()
        if known is not None and (now - known[0] < _KNOWN_SECONDS or known[0] > self._sure_from):
            return known[1]
        try:
            found = self._engine.asked_of_it(lambda client: client.inspect_image(name))
        except EngineRefused as error:
            if "invalid reference format" in str(error):
                raise NoImageName(name) from None
            if error.status == 404:
                self._known.pop(name, None)
                return None
            raise
        _check_volumes(name, found)
        image = self._describe(options.image or default_image(), found)
        self._known[name] = now, image
        return image

    def learn(self, image_id: str, python: str) -> None:
        """Remember which Python is in an image; it never changes."""
        self._pythons[image_id] = python

    def python_of(self, image: Image) -> str:
        """The version of its Python, "" if it isn't known yet."""
        return self._pythons.get(image.id) or image.python

    def check(self, options: ContainerOptions) -> Image | None:
        """Refuse what can't become a container: the image is missing, and may not be fetched."""
        found = self.find(options)
        if found is None and (options.pull == "never" or options.pinned):
            raise ImageMissing(options.image or default_image(), options.pinned)
        return found

    def get(self, options: ContainerOptions, report: Callable[[NodeProgress], object], stop: CallOff) -> Image:
        """The image, fetched if it must be; blocks. `report` gets the progress. Raises `WorkerNotStarted`."""
        try:
            found = None if options.pull == "always" and not options.pinned else self.check(options)
            if found is None:
                self._pull(options, report, stop)
                found = self.find(options)
        except Refused as error:
            raise WorkerNotStarted(str(error), options=error.options) from None
        if found is None:
            raise WorkerNotStarted(f"Image {options.image!r} was pulled and is gone again. Run the cell once more.")
        return found

    def _pull(self, options: ContainerOptions, report: Callable[[NodeProgress], object], stop: CallOff) -> None:
        name = options.image or default_image()
        repository, _, tag = name.partition("@") if "@" in name else _split_tag(name)
        progress = _Progress(name, report)

        def pull(client: Any) -> None:
            answer = _pull_line(client, repository, tag or "latest")
            try:
                with stop.closing(answer):
                    answer.open()
                    for line in answer:
                        if "error" in line:
                            raise _NotPulled(str(line["error"]))
                        progress.take(line)
            except TimeoutError:
                raise _NotPulled(f"nothing came of it for {_PULL_SILENCE_SECONDS:g} s") from None
            finally:
                answer.end()
                if stop.is_set():
                    raise WorkerNotStarted("The pull was called off.")

        try:
            self._engine.ask(pull, seconds=_PULL_SILENCE_SECONDS)
        except (EngineRefused, _NotPulled) as error:
            if isinstance(error, EngineRefused) and error.status in NOT_ALLOWED:
                raise
            self._known.pop(name, None)
            is_here = options.pull == "always" and self.find(options) is not None
            options_ = ("--pull",) if is_here else ()
            raise WorkerNotStarted(_not_pulled(name, str(error), is_here=is_here), options=options_) from None
        progress.done()
        self._known.pop(name, None)

    def remarks(self, image: Image, options: ContainerOptions) -> list[str]:
        """What should be said once about an image: that its name may come to mean another, or already does."""
        if not is_pinned(image.name):
            plain = _split_tag(image.name)[0]
            return [f"Image {image.name!r} has no tag that stays the same. Pin one, as in {plain}:1.2.3."]
        if options.pinned:
            self._known.pop(options.image or default_image(), None)  # as it is now, not some seconds ago
            now = self.find(msgspec.structs.replace(options, pinned=""))
            if now is not None and now.id != image.id:
                return [
                    f"Image {image.name!r} now means {now.id[7:19]}; this rerun uses {image.id[7:19]}, as the job did. "
                    f"--image {image.name} takes the new one."
                ]
        return []

    def _describe(self, name: str, found: Mapping[str, Any]) -> Image:
        config = found.get("Config") or {}
        environ = dict(entry.partition("=")[::2] for entry in config.get("Env") or ())
        digests = found.get("RepoDigests") or [""]
        python = environ.get("PYTHON_VERSION", "")
        return Image(
            name,
            found["Id"],
            digests[0].partition("@")[2],
            config.get("User") or "",
            python if _VERSION.match(python) else "",
            volumes_of(found),
        )


def _check_volumes(name: str, found: Mapping[str, Any]) -> None:
    for path in sorted((found.get("Config") or {}).get("Volumes") or ()):
        place, shown = posixpath.normpath(f"/{path.lstrip('/')}"), path[:_MOST_SHOWN]
        if not path.startswith("/"):
            raise InvalidRequest(
                f"Image {name!r} declares the volume {shown!r}, which is no absolute path, so that nobody can say "
                f"where it would be. Build it with VOLUME /{shown}, or take another --image. Nothing was started."
            )
        if is_the_systems(place):
            raise InvalidRequest(
                f"Image {name!r} declares the volume {shown!r}, where a container has what is the system's own. Build "
                "it without that, or take another --image. Nothing was started."
            )


def is_the_systems(path: str) -> bool:
    """Whether a container has there, or below, what no volume may take the place of."""
    return path in ("/", "/dev") or f"{path}/".startswith("/proc/")


def volumes_of(found: Mapping[str, Any]) -> tuple[str, ...]:
    """The volumes that an image declares, as the engine names them where it mounts them. found: from `inspect`."""
    declared = (found.get("Config") or {}).get("Volumes") or ()
    return tuple(sorted({posixpath.normpath(f"/{path.lstrip('/')}") for path in declared}))


def _pull_line(client: Any, repository: str, tag: str) -> Line:
    """What `client.pull` reads."""
    from docker import auth

    registry, _ = auth.resolve_repository_name(repository)
    header = auth.get_config_header(client, registry)
    return Line(
        client,
        "POST",
        "/images/create",
        params={"fromImage": repository, "tag": tag},
        headers={"X-Registry-Auth": header} if header else {},
        seconds=_PULL_SILENCE_SECONDS,
    )


def _split_tag(name: str) -> tuple[str, str, str]:
    head, slash, last = name.rpartition("/")
    repository, colon, tag = last.partition(":")
    return f"{head}{slash}{repository}", colon, tag


class _NotPulled(Exception):
    """Why an image did not come."""


class _Progress:
    """How far a pull is, on the job's card."""

    def __init__(self, name: str, report: Callable[[NodeProgress], object]) -> None:
        self._layers: dict[str, tuple[int, int]] = {}
        self._report = report
        self._label = f"pull {name.partition('@')[0].rpartition('/')[2]}"  # what tells images apart
        self._status = ""

    def take(self, line: Mapping[str, Any]) -> None:
        """One line of the engine's answer."""
        detail, status = line.get("progressDetail") or {}, str(line.get("status", ""))
        if "id" in line and detail.get("total") and status == "Downloading":
            self._layers[line["id"]] = detail.get("current", 0), detail["total"]
        elif line.get("id") in self._layers and status in ("Download complete", "Pull complete", "Already exists"):
            self._layers[line["id"]] = (self._layers[line["id"]][1],) * 2
        else:
            self._status = status if status.startswith("Status: ") else self._status
            return
        done, total = (sum(part) for part in zip(*self._layers.values(), strict=True))
        self._say(done, total)

    def done(self) -> None:
        """It is there."""
        total = sum(total for _, total in self._layers.values())
        self._say(total, total, closed=True, chunk="up to date" if "up to date" in self._status else "")

    def _say(self, done: int, total: int, **more: Any) -> None:
        size = (done, total, "B") if total else (1, 1, "")
        progress, most, unit = size
        self._report(
            NodeProgress(node_id=_BAR, bar=_BAR, progress=progress, total=most, unit=unit, label=self._label, **more)
        )


def _not_pulled(name: str, why: str, *, is_here: bool) -> str:
    """is_here: an image of this name, perhaps an older one."""
    why = why.strip().rstrip(".")
    is_missing = any(words in why for words in _NOT_THERE)
    if any(words in why for words in _UNREACHABLE) and not is_missing:
        why = f"the engine can't reach the image's registry ({why.rpartition(': ')[2]})"
    if is_here:
        return (
            f"Image {name!r} is on this machine and can't be refreshed, as --pull always asks: {why}. "
            "--pull missing takes the one that is here."
        )
    if any(words in why for words in _TOO_MANY):
        return (
            f"Image {name!r} is not on this machine, and its registry gives no more for now: {why}. "
            "Try later, or log in with docker login: who is known may have more."
        )
    if any(words in why for words in _UNKNOWN) and not is_missing:
        return (
            f"Image {name!r} is not on this machine, and its registry doesn't give it to you: {why}. "
            "Log in with docker login, as the user that runs this kernel."
        )
    if is_missing:
        return f"Image {name!r} can't be pulled: {why}. Check the name and the tag, or log in with docker login."
    return (
        f"Image {name!r} is not on this machine and can't be pulled: {why}. "
        "Check the engine's network, or load the image by hand (docker load)."
    )
