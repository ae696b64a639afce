"""The `docker` runner: what it refuses, and how a job gets its container."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.to_thread
import msgspec

from ...errors import LimitNotHeld
from ...events import Isolation, Notification
from ...frames import Report
from ...jobs import Job, JobRequest
from ...worker import wire
from ..base import Parcel, Swept, Worker, WorkerNotGone, WorkerNotStarted
from ..process_worker import value_frame
from ..run_frame import run_frame
from . import gpus, leftovers
from .boxes import Box, close_box, hand_out, open_box
from .engine import CHECK_SECONDS, CallOff, Engine, EngineRefused, EngineUnavailable
from .heir import Heir
from .images import Image, Images, probe_python
from .ladder import UNKILLABLE_SECONDS
from .mounts import checked_binds
from .pool import StandbyPool
from .refusals import check_request, other_python
from .spec import ContainerSpec, container_spec, holds, pool_key
from .watch import Watch
from .worker import DockerWorker

_NOT_UNDONE = "The engine stopped answering while it started. What is left of it is removed when the engine answers."
_STARTS, _STOPS = 128, 32  # apart: whoever waits for an image or a GPU must not keep another from being stopped


class DockerRunner:
    """Runs each job in a container of its own, on the engine that `DOCKER_HOST` names.

    environ: where the engine is found. labels: what tells whose its containers are. standby: keep containers
    waiting for jobs like those before. private: folders that no container may see.
    """

    name = "docker"
    shares_namespace = False

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        labels: Mapping[str, str],
        standby: bool = True,
        private: Sequence[Path] = (),
    ) -> None:
        self.engine = Engine(environ)
        self.images = Images(self.engine)
        self._labels = dict(labels)
        self._private = tuple(private)
        self._executor = ThreadPoolExecutor(_STARTS, thread_name_prefix="nodetool-docker")
        self._stops = ThreadPoolExecutor(_STOPS, thread_name_prefix="nodetool-docker-stop")
        self._pool = StandbyPool(self._executor, lambda box: close_box(self.engine, box)) if standby else None
        self._heir = Heir(environ, self._labels[leftovers.OWNER_LABEL])
        self._slots = count()
        label = f"{leftovers.OWNER_LABEL}={self._labels[leftovers.OWNER_LABEL]}"
        self._watch = Watch(self.engine, label=label, ended=self._engine_ended)
        self._noted: set[str] = set()
        self._network = ""
        self._network_lock = threading.Lock()

    def check(self, request: JobRequest) -> None:
        """See `Runner.check`. Asks the engine, for no more than some seconds."""
        facts = self.engine.facts()
        check_request(request, facts)
        here = self.engine.url.startswith("unix://")
        if request.container.gpus and here and not gpus.present() and "nvidia" not in facts.get("Runtimes", {}):
            raise gpus.NoGpu
        checked_binds(request.container.binds, engine_url=self.engine.url, private=self._private)
        lacking = set(request.limits.asked()) - set(holds(facts))
        if lacking and not request.limits.best_effort:
            raise LimitNotHeld(lacking, self.name, "Run on an engine that holds it")
        self.images.check(request.container)

    def holds(self) -> Mapping[str, str]:
        """See `Runner.holds`; empty where no engine answers."""
        try:
            return holds(self.engine.facts())
        except EngineUnavailable:
            return {}

    def speaks_other(self, request: JobRequest) -> str:
        """See `Runner.speaks_other`. An image that nobody knows yet is asked."""
        self.engine.facts()
        try:
            image = self.images.find(request.container)
            if image is None:
                return ""
            if not self.images.python_of(image):
                self.images.learn(
                    image.id, probe_python(self.engine, image, {**self._labels, "nodetool.slot": "probe"})
                )
            return other_python(self.images.python_of(image))
        except EngineRefused:
            return ""

    def launch(self, job: Job, parcel: Parcel) -> AbstractAsyncContextManager[Worker]:
        """See `Runner.launch`."""
        return self._launch(job, parcel)

    @asynccontextmanager
    async def _launch(self, job: Job, parcel: Parcel) -> AsyncIterator[Worker]:
        started = await self._started(job, parcel)
        with started.leases:
            worker = DockerWorker(
                job,
                self.engine,
                started.box,
                isolation=_isolation(job.request, started.box, started.image),
                first=[*(value_frame(value) for value in parcel.inputs), _run(job.request, parcel)],
                executor=self._stops,
                watch=self._watch,
                watched=started.watched,
            )
            del parcel
            try:
                yield worker
            finally:
                with anyio.CancelScope(shield=True):
                    await worker.end()

    async def _started(self, job: Job, parcel: Parcel) -> _Started:
        """The container, ready; called off when the caller is."""
        loop = asyncio.get_running_loop()
        self._heir.announce()

        def say(event: Report) -> None:
            loop.call_soon_threadsafe(parcel.report, event)

        stop = CallOff()
        start = self._executor.submit(self._start, job, say, stop, loop)
        waited = asyncio.wrap_future(start)
        try:
            started = await asyncio.shield(waited)
        except asyncio.CancelledError:
            waited.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else asks for it
            stop.set()
            with anyio.CancelScope(shield=True):
                await self._undone(start)
            raise
        if self._pool is not None and not job.request.fresh and not job.request.container.gpus:
            self._pool.refill(started.key, self._maker(job.request, started.spec))
        return started

    async def _undone(self, start: Future[_Started]) -> None:
        """Wait until nothing is left of a start that was called off. Raises `WorkerNotGone`."""
        loop, gone = asyncio.get_running_loop(), asyncio.Event()

        def undo(done: Future[_Started]) -> None:
            if not done.cancelled() and done.exception() is None:
                close_box(self.engine, done.result().box)
                done.result().leases.close()
            with suppress(RuntimeError):  # the manager gave up waiting, and has ended
                loop.call_soon_threadsafe(gone.set)

        start.cancel()
        start.add_done_callback(lambda done: self._stops.submit(undo, done))  # never here: it blocks
        while not gone.is_set():
            with anyio.move_on_after(UNKILLABLE_SECONDS):
                await gone.wait()
                return
            try:
                await self.engine.call(lambda client: client.ping(), seconds=CHECK_SECONDS)
            except (EngineUnavailable, EngineRefused):
                raise WorkerNotGone(_NOT_UNDONE) from None

    def _start(
        self, job: Job, say: Callable[[Report], None], stop: CallOff, loop: asyncio.AbstractEventLoop
    ) -> _Started:
        """In a thread of its own."""
        request, options = job.request, job.request.container
        image = self.images.get(options, say, stop)
        self._note_drift(image, request, say)
        try:
            watched = self._watch.ensure(loop)
            with ExitStack() as leases:
                spec = self._spec(request, image, leases, stop)
                key = pool_key(spec)
                waiting = self._pool.take(key) if self._pool is not None and not request.fresh else None
                asked = _asked(request)
                box = (
                    hand_out(self.engine, waiting, spec, profile=request.profile, asked=asked)
                    if waiting is not None
                    else self._maker(request, spec)(stop)
                )
                self.images.learn(image.id, box.python)
                return _Started(spec, key, box, image, watched, leases.pop_all())
        except (EngineUnavailable, EngineRefused) as error:
            raise WorkerNotStarted(str(error)) from None

    def _spec(self, request: JobRequest, image: Image, leases: ExitStack, stop: CallOff) -> ContainerSpec:
        options = request.container
        network = self._ensured_network(options.network)
        devices = (
            leases.enter_context(gpus.lease(options.gpus, shared=options.gpus_shared, stop=stop))
            if options.gpus
            else ()
        )
        binds = checked_binds(options.binds, engine_url=self.engine.url, private=self._private)
        request = msgspec.structs.replace(request, container=msgspec.structs.replace(options, binds=binds))
        return container_spec(
            request, self.engine.facts(), image=image.id, image_user=image.user, network=network, devices=devices
        )

    def _maker(self, request: JobRequest, spec: ContainerSpec) -> Callable[[CallOff], Box]:
        slot = str(next(self._slots))
        return lambda stop: open_box(
            self.engine,
            spec,
            name=f"nodetool-{self._labels[leftovers.OWNER_LABEL]}-{slot}",
            labels={**self._labels, "nodetool.slot": slot},
            profile=request.profile,
            asked=_asked(request),
            stop=stop,
        )

    def _ensured_network(self, network: str) -> str:
        if network != "bridge":
            return network
        with self._network_lock:
            if not self._network:
                name = f"nodetool-{self._labels[leftovers.OWNER_LABEL]}"
                self._network = leftovers.own_network(self.engine, name, self._labels)
            return self._network

    def _note_drift(self, image: Image, request: JobRequest, say: Callable[[Report], None]) -> None:
        for sentence in self.images.remarks(image, request.container):
            if sentence not in self._noted:
                self._noted.add(sentence)
                say(Notification(content=sentence))

    def sweep(self, gone: Callable[[Mapping[str, str]], bool], *, built_before: float = 0.0) -> Swept:
        """See `Sweeper`. An engine that isn't there, or isn't ours to use, has nothing of ours."""
        if not self.engine.is_there():
            return Swept()
        try:
            self.engine.facts()
            return leftovers.remove_leftovers(self.engine, gone, built_before=built_before)
        except (EngineUnavailable, EngineRefused) as error:
            return Swept(left=(str(error),))

    def _engine_ended(self) -> None:
        if self._pool is not None:
            self._pool.drop_dead()

    async def close(self) -> None:
        """See `Runner.close`."""
        with anyio.CancelScope(shield=True):
            if self._pool is not None:
                self._pool.empty()
            clean = await anyio.to_thread.run_sync(self._close)
            self._watch.close()
            await self._heir.close(needed=not clean)

    def _close(self) -> bool:
        """Whether the engine has nothing of ours any more."""
        if self._heir.announced:
            try:
                self.engine.ask(lambda client: client.ping(), seconds=CHECK_SECONDS)
            except (EngineUnavailable, EngineRefused):
                self.engine.give_up()
        self._executor.shutdown(wait=True)
        self._stops.shutdown(wait=True)
        self.engine.left.close()
        clean = not self._heir.announced or self._removed_all()
        self.engine.close()
        return clean

    def _removed_all(self) -> bool:
        owner = self._labels[leftovers.OWNER_LABEL]
        try:
            self.engine.facts()
            return not leftovers.remove_leftovers(self.engine, leftovers.owned_by(owner)).left
        except (EngineUnavailable, EngineRefused):
            return False


class _Started(NamedTuple):
    """A container that is ready, and what its worker needs to know."""

    spec: ContainerSpec
    key: str
    box: Box
    image: Image
    watched: int
    leases: ExitStack


def _asked(request: JobRequest) -> frozenset[str]:
    return frozenset() if request.limits.best_effort else frozenset(request.limits.asked())


def _isolation(request: JobRequest, box: Box, image: Image) -> Isolation:
    spec, host = box.spec, box.spec.host
    lacking = set(box.not_held)
    return Isolation(
        runner="docker",
        profile=request.profile.value,
        boundary="container",
        held={name: how for name, how in spec.held.items() if name not in lacking},
        not_held=tuple(sorted({*spec.not_held, *lacking})),
        details={
            "container": box.id[:12],
            "image": image.name,
            "image_id": image.id,
            "digest": image.digest,
            "python": box.python,
            "user": spec.config["User"],
            "network": host["NetworkMode"],
            "read_only": host["ReadonlyRootfs"],
            "capabilities": "none",
            "no_new_privileges": True,
            "seccomp_filters": 2 if request.profile.value == "untrusted" else 1,
            "mounts": [f"{mount['Source']}:{mount['Target']}{':ro' * mount['ReadOnly']}" for mount in host["Mounts"]],
            "gpus": [id_ for one in host["DeviceRequests"] or () for id_ in one.get("DeviceIDs", ["all"])],
            "profile_limits": dict(spec.defaults),
        },
    )


def _run(request: JobRequest, parcel: Parcel) -> list[wire.Buffer]:
    environ = dict(parcel.environ)
    cpus = request.limits.cpus
    if cpus:
        environ.setdefault("OMP_NUM_THREADS", str(max(1, round(cpus))))
    return run_frame(request, parcel, sys_path=None, environ=environ, by_value=True)
