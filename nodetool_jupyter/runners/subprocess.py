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
from ..errors import LimitNotHeld, ProfileRefused, Refused, RunnerUnavailable
from ..jobs import Job, JobRequest, Profile
from ..worker import cgroups, wire
from ..worker.tree import JOB_VARIABLE
from .base import Parcel, Worker, WorkerNotStarted
from .process_exit import why_not_started
from .process_limits import WITHOUT_GROUPS, Plan, check_cpus, plan
from .process_python import interpreter
from .process_streams import make_streams
from .process_supervisor import SupervisorLink
from .process_warmth import Warmth
from .process_worker import ProcessWorker, value_frame

_BOOT = Path(worker.__file__).parent / "boot.py"
_NO_SANDBOX = (
    "No sandbox is available for an untrusted subprocess job: bubblewrap was not found (apt install bubblewrap) "
    "or user namespaces are disabled. Nothing was started."
)


class SubprocessRunner:
    """Runs each job in an interpreter of its own; crash isolation, no boundary.

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
        if request.profile is Profile.UNTRUSTED:
            raise ProfileRefused("NT-S02", _NO_SANDBOX)
        interpreter(request.python)
        check_cpus(request.limits.cpus)
        lacking = set(request.limits.asked()) - set(self._mechanisms(request))
        if lacking and not request.limits.best_effort:
            raise LimitNotHeld(lacking, self.name, "Run where control groups are writable, or use --runner docker")

    def holds(self) -> Mapping[str, str]:
        """See `Runner.holds`; probed once by making a control group and removing it."""
        return dict(self._held)

    @cached_property
    def _held(self) -> dict[str, str]:
        grouped = cgroups.mechanisms(cgroups.find()) if self._use_cgroups else {}
        return {**WITHOUT_GROUPS, **grouped}

    def _mechanisms(self, request: JobRequest) -> Mapping[str, str]:
        """As `holds`, and as many processors as the machine has anyway."""
        if request.limits.cpus == usable_cpus() and "cpus" not in self._held:
            return {**self._held, "cpus": f"the machine has {usable_cpus()}"}
        return self._held

    def launch(self, job: Job, parcel: Parcel) -> AbstractAsyncContextManager[Worker]:
        """See `Runner.launch`."""
        return self._launch(job, parcel)

    @asynccontextmanager
    async def _launch(self, job: Job, parcel: Parcel) -> AsyncIterator[Worker]:
        arranged = plan(job.request, self._mechanisms(job.request))
        try:
            python = interpreter(job.request.python)
            order = self._order(job, parcel, arranged, python.path)
        except Refused as error:
            raise WorkerNotStarted(str(error)) from None
        forked = self._warmth if python.same and not job.request.fresh else None
        order["warm"] = forked.key_for(order["env"], parcel) if forked else ""
        started = self._spawn(job, order, arranged)
        try:
            await started.started()
            if forked and (make := forked.learn(job, order["env"], parcel)):
                self._link().keep_warm(make)
            for value in parcel.inputs:
                started.send(value_frame(value))
            started.send(_run_frame(job, parcel, share_path=python.same))
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

    def _spawn(self, job: Job, order: dict[str, Any], arranged: Plan) -> ProcessWorker:
        """Make the streams, give the child's ends to the supervisor, keep ours."""
        try:
            link = self._link()
            streams = make_streams()
        except OSError as error:
            with suppress(OSError):
                os.rmdir(order["folder"])
            raise WorkerNotStarted(why_not_started("start", error.errno or 0, order)) from None
        started = ProcessWorker(job, link, plan=arranged, order=order, streams=streams)
        link.spawn(order, streams.given, started)
        return started


def _short(job_id: str) -> str:
    """A short name for a job's folder: sockets that its code makes there may have paths of 107 bytes only."""
    return hashlib.blake2s(job_id.encode(), digest_size=5).hexdigest()


def _run_frame(job: Job, parcel: Parcel, *, share_path: bool) -> list[wire.Buffer]:
    request = job.request
    return wire.encode(
        {
            "type": "run",
            "code": request.work.runnable,
            "filename": request.work.filename,
            "profile": request.profile.value,
            "outputs": list(request.outputs),
            "sys_path": list(parcel.sys_path) if share_path and parcel.sys_path else None,
            "secrets": dict(parcel.secrets),
            "max_transfer_bytes": request.max_transfer_bytes,
        }
    )
