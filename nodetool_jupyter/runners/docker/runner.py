"""The `docker` runner: what it refuses, and what becomes of its containers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from ...containers import default_image
from ...errors import Refused
from ...events import Isolation
from ...frames import Report
from ...jobs import Job, JobRequest
from ...worker import wire
from ...worker.tree import JOB_VARIABLE
from ..base import Parcel, Swept, Worker, WorkerNotGone, WorkerNotStarted
from ..process_worker import value_frame
from ..run_frame import run_frame
from . import gpus, leases, leftovers, wheels
from .boxes import Box, close_box
from .built import LEASE, Builder
from .engine import CHECK_SECONDS, CallOff, Engine, EngineRefused, EngineUnavailable
from .heir import Heir
from .idle import IdleStreams
from .images import Image, Images
from .isolation import isolation
from .ladder import UNKILLABLE_SECONDS
from .mounts import check_workdir
from .pool import StandbyPool
from .probe import Pythons
from .refusals import check_held, check_request, code_for_another, other_python
from .spec import container_spec, holds
from .starts import Started, Starts, not_possible
from .threads import Threads
from .versions import Finding, look_into
from .watch import Watch
from .worker import DockerWorker

_NOT_UNDONE = "The engine stopped answering while it started. What is left of it is removed when the engine answers."
_REFILL_AFTER_SECONDS = 0.05
_STARTS, _STOPS = 128, 32  # apart: whoever waits for an image or a GPU must not keep another from being stopped


class DockerRunner:
    """Runs each job in a container of its own, on the engine that `DOCKER_HOST` names.

    environ: where the engine is found. labels: what tells whose its containers are. standby: keep containers
    waiting for jobs like those before. private: folders that no container may see. most: containers at once.
    """

    name = "docker"
    reserves = "a GPU"
    shares_namespace = False

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        labels: Mapping[str, str],
        standby: bool = True,
        private: Sequence[Path] = (),
        most: float = math.inf,
    ) -> None:
        self.engine = Engine(environ)
        self.images = Images(self.engine)
        self._labels = dict(labels)
        self._executor = Threads(_STARTS, "nodetool-docker")
        self._stops = Threads(_STOPS, "nodetool-docker-stop")
        self._pythons = Pythons(self.engine, self._labels, self._stops, self.images.learn)
        self._pool = (
            StandbyPool(self._executor, lambda box: close_box(self.engine, box), most=most) if standby else None
        )
        make_room = self._pool.make_room if self._pool is not None else lambda stop: None
        label = f"{leftovers.OWNER_LABEL}={self._labels[leftovers.OWNER_LABEL]}"
        self._idle = IdleStreams(self.engine, label=label, ended=self._drop_dead)
        self._heir = Heir(environ, self._labels[leftovers.OWNER_LABEL])
        self.engine.before_container = self._heir.announce
        self._gpus = gpus.Gpus(local=bool(self.engine.local_socket))
        self._watch = Watch(self.engine, self.images, ended=self._drop_dead)
        self._starts = Starts(
            self.engine,
            self.images,
            builder=Builder(self.engine, environ, labels, make_room=make_room),
            gpus=self._gpus,
            watch=self._watch,
            pool=self._pool,
            labels=labels,
            private=private,
        )
        self._starting = 0

    def check(self, request: JobRequest) -> None:
        """See `Runner.check`. Asks the engine, for no more than some seconds.

        Where a container waits, all else is looked at while the engine's answer comes.
        """
        ahead = self._starts.may_be_at_once(request)
        with self.engine.facts_meanwhile() if ahead else nullcontext(self.engine.facts()) as facts:
            self._check(request, facts)

    def _check(self, request: JobRequest, facts: Mapping[str, Any]) -> None:
        check_request(request, facts, local=bool(self.engine.local_socket))
        if request.container.gpus:
            self._gpus.check(request.container.gpus, facts)
        if request.container.requirements:
            wheels.check_pip()
        check_workdir(self._starts.binds(request), request.container.workdir)
        if request.container.network not in ("none", "bridge"):
            leftovers.foreign_network(self.engine, request.container.network)
        check_held(request, facts)
        self.images.check(request.container)

    def holds(self) -> Mapping[str, str]:
        """See `Runner.holds`; empty where no engine answers."""
        try:
            return holds(self.engine.facts())
        except EngineUnavailable:
            return {}

    def foresee(self, request: JobRequest) -> Isolation:
        """See `Runner.foresee`. An image that is not there has no id."""
        image = self.images.find(request.container) or Image(request.container.image or default_image(), "")
        request, user = self._starts.resolved(request, image)
        self._starts.links.check(image.name, image.id, image.volumes)
        facts, own = self.engine.facts(), image.volumes
        network = leftovers.named(self.engine, request.container.network)
        spec = container_spec(request, facts, image=image.id, image_user=user, network=network, devices=(), volumes=own)
        return isolation(request, spec, image, python=self.images.python_of(image))

    def speaks_other(self, request: JobRequest) -> str:
        """See `Runner.speaks_other`. An image that nobody knows yet is asked."""
        self.engine.facts()
        try:
            image = self.images.find(request.container)
            if image is None:
                return ""
            return other_python(self.python_of(image))
        except EngineRefused:
            return ""

    def python_of(self, image: Image) -> str:
        """The version of an image's Python; "" when none is told within seconds. Raises `EngineUnavailable`."""
        return self.images.python_of(image) or self._pythons.version(image.id)

    def look_into(self, image_id: str) -> tuple[Finding, ...]:
        """The GPU software in an image. Blocks. Raises `EngineUnavailable`, `EngineRefused`."""
        return look_into(self.engine, image_id, self._labels)

    def built_images(self) -> list[dict[str, Any]]:
        """The images that were built for requirements, as the engine lists them. Raises `EngineUnavailable`."""
        return list(self.engine.ask(lambda client: client.images(filters={"label": leftovers.BUILT_LABEL})))

    def wants(self, job: Job) -> str:
        """See `Reserver.wants`."""
        return "" if job.request.container.gpus_shared else job.request.container.gpus

    def reserve(self, job: Job) -> bool:
        """See `Reserver.reserve`: the GPUs that no other job may have."""
        try:
            may = self._gpus.reserve(job.id, job.request.container)
        except (Refused, OSError):  # no lease can be had here: its start says so
            may = True
        if may and self._pool is not None:
            self._pool.job_begins(job.id)
        return may

    def unreserve(self, job_id: str) -> None:
        """See `Reserver.unreserve`."""
        self._gpus.unreserve(job_id)
        if self._pool is not None:
            self._pool.job_ends(job_id)

    def launch(self, job: Job, parcel: Parcel) -> AbstractAsyncContextManager[Worker]:
        """See `Runner.launch`."""
        return self._launch(job, parcel)

    @asynccontextmanager
    async def _launch(self, job: Job, parcel: Parcel) -> AsyncIterator[Worker]:
        started = await self._started(job, parcel)
        with started.leases:
            self._idle.release(started.box)
            # the image was not there to be asked before
            if unreadable := code_for_another(parcel.inputs, started.box.python):
                await self.engine.call(lambda _: close_box(self.engine, started.box))
                raise WorkerNotStarted(unreadable)
            worker = DockerWorker(
                job,
                self.engine,
                started.box,
                image=started.image,
                first=[*(value_frame(value) for value in parcel.inputs), _run(job, parcel, started.box)],
                executor=self._stops,
                watch=self._watch,
                watched=started.watched,
                leases=started.leases,
            )
            del parcel
            try:
                yield worker
            finally:
                with anyio.CancelScope(shield=True):
                    await worker.end()

    async def _started(self, job: Job, parcel: Parcel) -> Started:
        """The container, ready; called off when the caller is."""
        loop = asyncio.get_running_loop()
        try:
            self._heir.announce()
        except OSError as error:
            raise not_possible(error) from None
        started = self._starts.at_once(job, parcel.report, loop)
        if started is None:
            started = await self._start(job, parcel, loop)
        if self._pool is not None and not job.request.fresh and not job.request.container.gpus:
            # a little later: what the job does first is not to wait for the engine's work on the next container
            ahead = self._starts.maker(job.request, started.spec)

            def make(stop: CallOff) -> Box:
                return self._idle.watch(lambda: ahead(stop), loop)

            loop.call_later(_REFILL_AFTER_SECONDS, self._refill, started.key, make)
        return started

    async def _start(self, job: Job, parcel: Parcel, loop: asyncio.AbstractEventLoop) -> Started:
        def say(event: Report) -> None:
            loop.call_soon_threadsafe(parcel.report, event)

        stop = CallOff()
        start = self._executor.submit(self._starts.start, job, say, stop, loop)
        self._starting += 1
        start.add_done_callback(lambda done: loop.call_soon_threadsafe(self._has_started))
        waited = asyncio.wrap_future(start)
        try:
            return await asyncio.shield(waited)
        except asyncio.CancelledError:
            waited.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else asks for it
            stop.set()
            with anyio.CancelScope(shield=True):
                await self._undone(start)
            raise

    async def _undone(self, start: Future[Started]) -> None:
        """Wait until nothing is left of a start that was called off. Raises `WorkerNotGone`."""
        loop, gone = asyncio.get_running_loop(), asyncio.Event()

        def undo(done: Future[Started]) -> None:
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

    def _has_started(self) -> None:
        self._starting -= 1

    def _refill(self, key: str, make: Callable[[CallOff], Box]) -> None:
        """Have a container wait, unless jobs start meanwhile: they go first, and the last of them does the same."""
        if self._pool is not None and not self._starting:
            self._pool.refill(key, make)

    def sweep(self, gone: Callable[[Mapping[str, str]], bool], *, built_before: float = 0.0) -> Swept:
        """See `Sweeper`. An engine that isn't there, or isn't ours to use, has nothing of ours."""
        with suppress(Refused, OSError):
            leases.sweep(LEASE)
        if not self.engine.is_there():
            return Swept()
        try:
            self.engine.facts()
            swept = leftovers.remove_leftovers(self.engine, gone)
            if not built_before:
                return swept
            owner = self._labels[leftovers.OWNER_LABEL]
            free = self._pool.give_up if self._pool is not None else lambda image: None
            built = leftovers.remove_built(self.engine, built_before, owner=owner, free=free)
            return Swept(swept.removed + built.removed, swept.left + built.left)
        except (EngineUnavailable, EngineRefused) as error:
            return Swept(left=(str(error),))

    def _drop_dead(self, touched: Collection[str] = ()) -> None:
        if self._pool is not None:
            self._pool.drop_dead(touched)

    async def close(self) -> None:
        """See `Runner.close`."""
        with anyio.CancelScope(shield=True):
            if self._pool is not None:
                self._pool.empty()
            clean = await anyio.to_thread.run_sync(self._close)
            self._watch.close()
            self._idle.close()
            await self._heir.close(needed=not clean)

    def _close(self) -> bool:
        """Whether the engine has nothing of ours any more."""
        if self._heir.announced:
            try:
                self.engine.ping()
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


def _run(job: Job, parcel: Parcel, box: Box) -> list[wire.Buffer]:
    request, environ = job.request, {**parcel.environ, JOB_VARIABLE: job.id}
    cpus = box.spec.limits.get("cpus")
    if cpus:  # a container sees all processors of its machine
        environ.setdefault("OMP_NUM_THREADS", str(max(1, round(cpus))))
    return run_frame(request, parcel, sys_path=None, environ=environ, by_value=not other_python(box.python))
