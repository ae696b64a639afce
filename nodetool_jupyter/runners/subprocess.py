"""The `subprocess` runner: one child per job, owned by a supervisor that outlives the kernel by a second."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import anyio

from .. import places, worker
from ..config import usable_cpus
from ..errors import LimitNotHeld, Refused, RunnerUnavailable
from ..events import Isolation
from ..jobs import Job, JobRequest, Profile
from ..sandbox import Sandbox, filter_file
from ..worker import cgroups
from ..worker.tree import JOB_VARIABLE
from .base import Parcel, Worker, WorkerNotStarted
from .process_exit import why_not_started
from .process_limits import IN_A_SANDBOX, PINNED, WITHOUT_GROUPS, Plan, check_machine, plan, profile_limits
from .process_python import interpreter, speaks_other
from .process_sandbox import enclose, sandbox_for
from .process_streams import make_streams
from .process_supervisor import SupervisorLink
from .process_warmth import Warmth
from .process_worker import ProcessWorker, isolation, value_frame
from .run_frame import run_frame

_BOOT = Path(worker.__file__).parent / "boot.py"


class SubprocessRunner:
    """Runs each job in an interpreter of its own: crash isolation, no boundary. Untrusted ones in a sandbox.

    `use_cgroups=False` leaves control groups alone even where this process may make them. `warm`: keep
    interpreters waiting, forked from a parent that has imported what jobs need; each is used once.
    """

    name = "subprocess"
    shares_namespace = False

    def __init__(self, *, use_cgroups: bool = True, warm: bool = False) -> None:
        self._use_cgroups = use_cgroups
        self._warmth = Warmth([sys.executable, "-I", "-S", str(_BOOT), "warm"]) if warm else None
        self._links: list[SupervisorLink] = []
        self._owners: set[str] = set()

    def check(self, request: JobRequest) -> None:
        """See `Runner.check`."""
        if not sys.platform.startswith("linux"):
            raise RunnerUnavailable(self.name, f"it needs Linux, this is {sys.platform}", "Use --runner threaded")
        untrusted = request.profile is Profile.UNTRUSTED
        interpreter(request.python)
        check_machine(request)
        if untrusted:
            sandbox_for(request)
        lacking = set(request.limits.asked()) - set(self._mechanisms(request))
        if request.container.gpus:  # only CUDA_VISIBLE_DEVICES is set, and code may set it anew
            lacking.add("gpus")
        if lacking and (untrusted or not request.limits.best_effort):
            groups = "Run where control groups are writable, or use" if "cpus" in lacking else "Use"
            remedy = f"{groups} --runner docker"
            raise LimitNotHeld(lacking, self.name, remedy, or_without=not untrusted)

    def holds(self) -> Mapping[str, str]:
        """See `Runner.holds`; probed once by making a control group and removing it."""
        return dict(self._held)

    @cached_property
    def _grouped(self) -> Mapping[str, str]:
        return cgroups.mechanisms(cgroups.find()) if self._use_cgroups else {}

    @property
    def _held(self) -> dict[str, str]:
        return {**WITHOUT_GROUPS, **self._grouped}

    def _mechanisms(self, request: JobRequest) -> Mapping[str, str]:
        """As `holds`, and a number of processors that the machine doesn't exceed anyway, or that a sandbox pins."""
        untrusted = request.profile is Profile.UNTRUSTED
        held = {**self._held, **(IN_A_SANDBOX if untrusted and "memory_bytes" not in self._grouped else {})}
        cpus = request.limits.cpus or profile_limits(request.profile).get("cpus")
        if cpus is None or "cpus" in held:
            return held
        if cpus >= usable_cpus():
            return {**held, "cpus": f"the machine has {usable_cpus()}"}
        return {**held, "cpus": PINNED} if untrusted and cpus == int(cpus) else held

    def foresee(self, request: JobRequest) -> Isolation:
        """See `Runner.foresee`."""
        arranged = plan(request, self._mechanisms(request))
        box = sandbox_for(request) if request.profile is Profile.UNTRUSTED else None
        return isolation(request, arranged, box, held=arranged.held)

    def speaks_other(self, request: JobRequest) -> str:
        """See `Runner.speaks_other`."""
        return speaks_other(request.python)

    def launch(self, job: Job, parcel: Parcel) -> AbstractAsyncContextManager[Worker]:
        """See `Runner.launch`."""
        return self._launch(job, parcel)

    @asynccontextmanager
    async def _launch(self, job: Job, parcel: Parcel) -> AsyncIterator[Worker]:
        arranged = plan(job.request, self._mechanisms(job.request))
        try:
            python = interpreter(job.request.python)
            box = sandbox_for(job.request) if job.request.profile is Profile.UNTRUSTED else None
            order = self._order(job, parcel, arranged, python.path)
        except Refused as error:
            raise WorkerNotStarted(str(error)) from None
        if box:
            order = enclose(order, box, job.request, parcel, arranged)
        forked = self._warmth if python.same and not job.request.fresh and not box else None
        order["warm"] = forked.key_for(order["env"], parcel) if forked else ""
        started = self._spawn(job, order, arranged, box)
        try:
            await started.started()
            if forked and (make := forked.learn(job, order["env"], parcel)):
                self._link().keep_warm(make)
            for value in parcel.inputs:
                started.send(value_frame(value))
            path = [path for path in parcel.sys_path if not box or box.sees(path)] if python.same else []
            started.send(run_frame(job.request, parcel, sys_path=path, by_value=python.same))
            del parcel
            yield started
        finally:
            with anyio.CancelScope(shield=True):
                await started.end()

    async def close(self) -> None:
        """See `Runner.close`."""
        links, self._links = self._links, []
        with anyio.CancelScope(shield=True):
            for link in links:
                await link.close()
        for owner in self._owners:
            with suppress(OSError):
                places.owner_root(owner).rmdir()

    def _link(self) -> SupervisorLink:
        for link in list(self._links):
            if link.lost and link.collect():
                self._links.remove(link)
        if not self._links or self._links[-1].lost:
            self._links.append(SupervisorLink(grouped=self._use_cgroups))
            if self._warmth:
                self._warmth.forget()
        return self._links[-1]

    def _order(self, job: Job, parcel: Parcel, arranged: Plan, python: str) -> dict[str, Any]:
        """What the supervisor is told, with a private folder made for the job."""
        try:
            cwd = job.request.cwd or os.getcwd()
        except OSError as error:
            raise WorkerNotStarted(f"The working directory is gone: {error.strerror}. Change to another one.") from None
        folder = str(places.job_folder(job.owner, _short(job.id)))
        self._owners.add(job.owner)
        environ = {"PYTHONFAULTHANDLER": "1", **parcel.environ, "TMPDIR": folder, JOB_VARIABLE: job.id}
        return {
            "job": job.id,
            "argv": [python, "-I", "-S", str(_BOOT)],
            "env": environ,
            "cwd": cwd,
            "rlimits": arranged.rlimits,
            "nice": 0,
            "limits": arranged.limits,
            "required": arranged.required,
            "group": places.resource_name(job.owner, job.id),
            "folder": folder,
        }

    def _spawn(self, job: Job, order: dict[str, Any], arranged: Plan, box: Sandbox | None) -> ProcessWorker:
        """Make the streams, give the child's ends to the supervisor, keep ours."""
        more: list[int] = []
        try:
            link = self._link()
            if box:
                more.append(filter_file(pinned=bool(arranged.processors), counted=arranged.memory_is_counted))
            streams = make_streams()
        except OSError as error:
            for descriptor in more:
                os.close(descriptor)
            with suppress(OSError):
                os.rmdir(order["folder"])
            raise WorkerNotStarted(why_not_started("start", error.errno or 0, order)) from None
        started = ProcessWorker(job, link, plan=arranged, order=order, streams=streams, box=box)
        link.spawn(order, [*streams.given, *more], started)
        return started


def _short(job_id: str) -> str:
    """A short name for a job's folder: sockets that its code makes there may have paths of 107 bytes only."""
    return hashlib.blake2s(job_id.encode(), digest_size=5).hexdigest()
