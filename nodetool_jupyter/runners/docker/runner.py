"""The `docker` runner: what it refuses, and how a job gets its container."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from itertools import count
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

from ...containers import default_image
from ...errors import LimitNotHeld
from ...events import Isolation, Notification
from ...frames import Report
from ...jobs import Job, JobRequest, Profile
from ...worker import seccomp, wire
from ..base import Parcel, Worker, WorkerNotStarted
from ..process_worker import value_frame
from ..run_frame import run_frame
from . import gpus, leftovers
from .boxes import Box, close_box, hand_out, open_box, remove
from .engine import CallOff, Engine, EngineRefused, EngineUnavailable
from .heir import Heir
from .images import Image, Images, probe_python
from .mounts import checked_binds
from .pool import StandbyPool
from .refusals import check_request, other_python
from .spec import ContainerSpec, container_spec, holds, pool_key
from .worker import DockerWorker

_THREADS = 32
_REFILL_AFTER_SECONDS = 0.05


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
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="nodetool-docker")
        self._pool = StandbyPool(self._executor, lambda box: close_box(self.engine, box)) if standby else None
        self._heir = Heir(environ, self._labels[leftovers.OWNER_LABEL])
        self._slots = count()
        self._workers: set[DockerWorker] = set()
        self._left: set[str] = set()
        self._starting = 0
        self._noted: set[str] = set()
        self._network = ""

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

    def foresee(self, request: JobRequest) -> Isolation:
        """See `Runner.foresee`. An image that is not there has no id."""
        image = self.images.find(request.container) or Image(request.container.image or default_image(), "")
        binds = checked_binds(request.container.binds, engine_url=self.engine.url, private=self._private)
        request = msgspec.structs.replace(request, container=msgspec.structs.replace(request.container, binds=binds))
        network = request.container.network
        spec = container_spec(
            request, self.engine.facts(), image=image.id, image_user=image.user, network=network, devices=()
        )
        return _isolation(request, spec, image, python=self.images.python_of(image))

    def speaks_other(self, request: JobRequest) -> str:
        """See `Runner.speaks_other`. An image that nobody knows yet is asked."""
        try:
            image = self.images.find(request.container)
            if image is None:
                return ""
            if not self.images.python_of(image):
                self.images.learn(
                    image.id, probe_python(self.engine, image, {**self._labels, "nodetool.slot": "probe"})
                )
            return other_python(self.images.python_of(image))
        except (EngineUnavailable, EngineRefused):
            return ""

    def launch(self, job: Job, parcel: Parcel) -> AbstractAsyncContextManager[Worker]:
        """See `Runner.launch`."""
        return self._launch(job, parcel)

    @asynccontextmanager
    async def _launch(self, job: Job, parcel: Parcel) -> AsyncIterator[Worker]:
        stop = CallOff()
        with ExitStack() as leases:
            box, image = await self._started(job, parcel, leases, stop)
            worker = DockerWorker(
                job,
                self.engine,
                box,
                isolation=_isolation(
                    job.request, box.spec, image, lacking=box.not_held, python=box.python, container=box.id[:12]
                ),
                first=[*(value_frame(value) for value in parcel.inputs), _run(job.request, parcel)],
                executor=self._executor,
            )
            del parcel
            self._workers.add(worker)
            try:
                yield worker
            finally:
                self._workers.discard(worker)
                with anyio.CancelScope(shield=True):
                    stopped = await worker.end()
                    removal = self._executor.submit(self._remove, box.id)
                    if not stopped:
                        await asyncio.wrap_future(removal)

    async def _started(self, job: Job, parcel: Parcel, leases: ExitStack, stop: CallOff) -> tuple[Box, Image]:
        """The container, ready; called off when the caller is."""
        loop = asyncio.get_running_loop()
        self._heir.announce()

        def say(event: Report) -> None:
            loop.call_soon_threadsafe(parcel.report, event)

        future = loop.run_in_executor(self._executor, self._start, job, say, leases, stop)
        self._starting += 1
        future.add_done_callback(self._has_started)
        try:
            spec, key, box, image = await asyncio.shield(future)
        except asyncio.CancelledError:
            stop.set()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([future])
                if not future.cancelled() and future.exception() is None:
                    await self.engine.call(lambda _: close_box(self.engine, future.result()[2]))
            raise
        if self._pool is not None and not job.request.fresh and not job.request.container.gpus:
            # a little later: what the job does first is not to wait for the engine's work on the next container
            loop.call_later(_REFILL_AFTER_SECONDS, self._refill, key, self._maker(job.request, spec))
        return box, image

    def _has_started(self, _: object) -> None:
        self._starting -= 1

    def _refill(self, key: str, make: Callable[[], Box]) -> None:
        """Have a container wait, unless jobs start meanwhile: they go first, and the last of them does the same."""
        if self._pool is not None and not self._starting:
            self._pool.refill(key, make)

    def _start(
        self, job: Job, say: Callable[[Report], None], leases: ExitStack, stop: CallOff
    ) -> tuple[ContainerSpec, str, Box, Image]:
        """In a thread of its own."""
        request, options = job.request, job.request.container
        image = self.images.get(options, say, stop)
        self._note_drift(image, request, say)
        try:
            network = self._ensured_network(options.network)
            devices = (
                leases.enter_context(gpus.lease(options.gpus, shared=options.gpus_shared, stop=stop))
                if options.gpus
                else ()
            )
            binds = checked_binds(options.binds, engine_url=self.engine.url, private=self._private)
            request = msgspec.structs.replace(request, container=msgspec.structs.replace(options, binds=binds))
            spec = container_spec(
                request, self.engine.facts(), image=image.id, image_user=image.user, network=network, devices=devices
            )
            key = pool_key(spec)
            waiting = self._pool.take(key, stop) if self._pool is not None and not request.fresh else None
            asked = _asked(request)
            box = (
                hand_out(self.engine, waiting, spec, profile=request.profile, asked=asked)
                if waiting is not None
                else self._maker(request, spec, stop)()
            )
        except (EngineUnavailable, EngineRefused) as error:
            raise WorkerNotStarted(str(error)) from None
        self.images.learn(image.id, box.python)
        return spec, key, box, image

    def _remove(self, container: str) -> None:
        if not remove(self.engine, container):
            self._left.add(container)

    def _maker(self, request: JobRequest, spec: ContainerSpec, stop: CallOff | None = None) -> Callable[[], Box]:
        slot = str(next(self._slots))
        return lambda: open_box(
            self.engine,
            spec,
            name=f"nodetool-{self._labels[leftovers.OWNER_LABEL]}-{slot}",
            labels={**self._labels, "nodetool.slot": slot},
            profile=request.profile,
            asked=_asked(request),
            stop=stop or CallOff(),
        )

    def _ensured_network(self, network: str) -> str:
        if network != "bridge":
            return network
        if not self._network:
            name = f"nodetool-{self._labels[leftovers.OWNER_LABEL]}"
            self._network = leftovers.own_network(self.engine, name, self._labels)
        return self._network

    def _note_drift(self, image: Image, request: JobRequest, say: Callable[[Report], None]) -> None:
        for sentence in self.images.remarks(image, request.container):
            if sentence not in self._noted:
                self._noted.add(sentence)
                say(Notification(content=sentence))

    def sweep(self, gone: Callable[[Mapping[str, str]], bool]) -> list[str]:
        """Remove what dead owners left in the engine; what was removed. Blocks. Raises `EngineUnavailable`."""
        return leftovers.remove_leftovers(self.engine, gone)

    async def close(self) -> None:
        """See `Runner.close`."""
        with anyio.CancelScope(shield=True):
            if self._pool is not None:
                self._pool.empty()
            await anyio.to_thread.run_sync(self._close)
            await self._heir.close()

    def _close(self) -> None:
        self._executor.shutdown(wait=True)
        for container in self._left:
            remove(self.engine, container)
        if self._heir.announced:
            owner = self._labels[leftovers.OWNER_LABEL]
            with suppress(EngineUnavailable, EngineRefused):  # the next manager's sweep finds them by their labels
                leftovers.remove_leftovers(self.engine, lambda labels: labels.get(leftovers.OWNER_LABEL) == owner)
        self.engine.close()


def _asked(request: JobRequest) -> frozenset[str]:
    return frozenset() if request.limits.best_effort else frozenset(request.limits.asked())


def _isolation(
    request: JobRequest, spec: ContainerSpec, image: Image, *, lacking: Iterable[str] = (), **details: str
) -> Isolation:
    """What is in force, or would be. lacking: limits of the profile that the engine did not apply."""
    host, lacking = spec.host, set(lacking)
    return Isolation(
        runner="docker",
        profile=request.profile.value,
        boundary="container",
        held={name: how for name, how in spec.held.items() if name not in lacking},
        not_held=tuple(sorted({*spec.not_held, *lacking})),
        details={
            **details,
            "image": image.name,
            "image_id": image.id,
            "digest": image.digest,
            "user": spec.config["User"],
            "network": host["NetworkMode"],
            "read_only": host["ReadonlyRootfs"],
            "capabilities": "none",
            "no_new_privileges": True,
            **({"seccomp": seccomp.IN_WORDS} if request.profile is Profile.UNTRUSTED else {}),
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
