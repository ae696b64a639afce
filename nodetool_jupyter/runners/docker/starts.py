"""How a job gets its container: at once where one waits and nothing is to be asked, else in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

import msgspec

from ...containers import Bind
from ...errors import Refused
from ...events import Notification
from ...frames import Report
from ...jobs import Job, JobRequest, Profile
from ..base import WorkerNotStarted
from . import leftovers
from .boxes import Box, fits, hand_out, open_box
from .built import Builder, Built
from .engine import NOT_ALLOWED, CallOff, Engine, EngineRefused, MustAsk
from .gpus import Gpus
from .images import Image, Images
from .links import Links
from .mounts import checked_binds, what_lies_at
from .pool import StandbyPool
from .spec import ContainerSpec, container_spec, pool_key
from .users import Users
from .watch import Watch

Say = Callable[[Report], object]


class Started(NamedTuple):
    """A container that is ready, and what its worker needs to know."""

    spec: ContainerSpec
    key: str
    box: Box
    image: Image
    watched: int
    leases: ExitStack


class Starts:
    """Makes containers for jobs, or takes those that wait. labels: of all that is made. private: never to be shown."""

    def __init__(
        self,
        engine: Engine,
        images: Images,
        *,
        builder: Builder,
        gpus: Gpus,
        watch: Watch,
        pool: StandbyPool | None,
        labels: Mapping[str, str],
        private: Sequence[Path],
    ) -> None:
        self._engine = engine
        self._images = images
        self._builder = builder
        self._gpus = gpus
        self._watch = watch
        self._pool = pool
        self._labels = dict(labels)
        self._private = tuple(private)
        self._users = Users(engine, self._labels)
        self.links = Links(engine, self._labels)
        self._slots = count()
        self._noted: set[str] = set()
        self._network = ""
        self._network_lock = threading.Lock()

    def may_be_at_once(self, request: JobRequest) -> bool:
        """Whether a container waits that may be this request's."""
        return self._pool is not None and self._pool.some_wait and not request.fresh and self._watch.stands

    def at_once(self, job: Job, say: Say, loop: asyncio.AbstractEventLoop) -> Started | None:
        """With a container that waits and has the job's limits; nothing is waited for. On the loop.

        `None` where the engine must be asked something, or a disk, which may be far away. Raises `WorkerNotStarted`.
        """
        request, options = job.request, job.request.container
        there = options.network == "none" or (options.network == "bridge" and self._network)
        if not there or options.binds or options.requirements or options.gpus or not self.may_be_at_once(request):
            return None
        try:
            with self._engine.unasked():
                return self.start(job, say, CallOff(), loop)
        except MustAsk:
            return None

    def start(self, job: Job, say: Say, stop: CallOff, loop: asyncio.AbstractEventLoop) -> Started:
        """Blocks, unless nothing may be asked. Raises `WorkerNotStarted`."""
        request, options = job.request, job.request.container
        try:
            image = self._images.get(options, say, stop)
            self._note_drift(image, request, say)
            watched = self._watch.ensure(loop)
            with ExitStack() as leases:
                built = Built(image.id, "")
                if options.requirements:
                    built = self._builder.get(image, job, say=say, stop=stop)
                    image = replace(image, built=built.name)
                spec = self._spec(job, image, leases, stop, built=built.id)
                shown = what_lies_at(mount["Source"] for mount in spec.host["Mounts"])
                key = f"{pool_key(spec)} {shown}"
                box = self._box(request, spec, key, stop)
                self._images.learn(image.id, box.python)
                return Started(spec, key, box, image, watched, leases.pop_all())
        except Refused as error:
            raise WorkerNotStarted(str(error), options=error.options) from None
        except EngineRefused as error:
            why = self._engine.not_served(error.status, str(error)) if error.status in NOT_ALLOWED else error
            raise WorkerNotStarted(str(why)) from None
        except OSError as error:
            raise not_possible(error) from None
        except WorkerNotStarted:
            self._network = ""  # somebody may have removed it: the next job looks
            raise

    def _box(self, request: JobRequest, spec: ContainerSpec, key: str, stop: CallOff) -> Box:
        asked = _asked(request)
        waiting = None
        if self._pool is not None:
            if self._engine.may_ask:
                waiting = self._pool.take("" if request.fresh else key, stop)
            else:
                waiting = self._pool.take_now(key, lambda box: fits(box, spec, asked))
        if waiting is not None:
            return hand_out(self._engine, waiting, spec, profile=request.profile, asked=asked)
        return self.maker(request, spec)(stop)

    def maker(self, request: JobRequest, spec: ContainerSpec) -> Callable[[CallOff], Box]:
        """What makes a container for such a request; raises `MustAsk` where nothing may be asked."""
        slot = str(next(self._slots))
        return lambda stop: open_box(
            self._engine,
            spec,
            name=f"nodetool-{self._labels[leftovers.OWNER_LABEL]}-{slot}",
            labels={**self._labels, "nodetool.slot": slot},
            profile=request.profile,
            asked=_asked(request),
            stop=stop,
            wall_seconds=request.limits.wall_seconds,
        )

    def resolved(self, request: JobRequest, image: Image) -> tuple[JobRequest, str]:
        """The request with real paths and users in numbers, and the image's own user."""
        options, binds = request.container, self.binds(request)
        user = self._users.asked(image.id, options.user)
        untrusted = request.profile is Profile.UNTRUSTED  # its code is not told by a name who it is
        image_user = image.user if user or untrusted else self._users.in_numbers(image.id, image.user)
        return msgspec.structs.replace(
            request, container=msgspec.structs.replace(options, binds=binds, user=user)
        ), image_user

    def binds(self, request: JobRequest) -> tuple[Bind, ...]:
        """With real paths, links resolved. Raises `InvalidRequest`."""
        if not request.container.binds:
            return ()
        root = self._engine.facts().get("DockerRootDir", "")
        return checked_binds(
            request.container.binds, engine_url=self._engine.url, engine_root=root, private=self._private
        )

    def _spec(self, job: Job, image: Image, leases: ExitStack, stop: CallOff, *, built: str) -> ContainerSpec:
        options = job.request.container
        network = self._ensured_network(options.network)
        devices = leases.enter_context(self._gpus.lease(job.id, options, stop)) if options.gpus else ()
        request, user = self.resolved(job.request, image)
        self.links.check(image.name, built, image.volumes)
        facts, own = self._engine.facts(), image.volumes
        return container_spec(
            request, facts, image=built, image_user=user, network=network, devices=devices, volumes=own
        )

    def _ensured_network(self, network: str) -> str:
        if network != "bridge":
            return network if network == "none" else leftovers.foreign_network(self._engine, network)
        if known := self._network:
            return known
        with self._network_lock:
            if not self._network:
                name = f"nodetool-{self._labels[leftovers.OWNER_LABEL]}"
                self._network = leftovers.own_network(self._engine, name, self._labels)
            return self._network

    def _note_drift(self, image: Image, request: JobRequest, say: Say) -> None:
        for sentence in self._images.remarks(image, request.container):
            if sentence not in self._noted:
                self._noted.add(sentence)
                say(Notification(content=sentence))


def not_possible(error: OSError) -> WorkerNotStarted:
    """What this machine lacks on the way to a container: descriptors, processes, room on a disk."""
    where = f" ({error.filename})" if error.filename else ""
    return WorkerNotStarted(
        f"The container could not be made: {error.strerror or error}{where}. Close what you don't need, and run the "
        "cell again."
    )


def _asked(request: JobRequest) -> frozenset[str]:
    return frozenset() if request.limits.best_effort else frozenset(request.limits.asked())
