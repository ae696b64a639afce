"""One session per kernel: its settings, its manager and painter, made when they are first needed."""

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..config import Settings
from ..errors import InvalidRequest, OutputMissing
from ..jobs import Job

if TYPE_CHECKING:
    from ..manager import JobExecutionManager
    from .painter import Painter

_FIXED_AT_START = {"thread_pool_size", "max_workflow_threads", "docker_max_jobs", "database_url", "env"}
_MOST_REMEMBERED = 10_000
_lock = threading.RLock()
_current: Session | None = None


class BringsBack(Protocol):
    """A job whose values are to become variables."""

    @property
    def brings_back(self) -> bool:
        """Whether there are any."""
        ...

    def done(self) -> bool:
        """Whether it has ended."""
        ...

    def put_into(self, namespace: dict[str, Any]) -> None:
        """Assign them."""
        ...


class Session:
    """What the magics and `run` work with. `shell` is IPython's, or `None` in plain Python."""

    def __init__(self, shell: Any = None, traits: Callable[[], Mapping[str, Any]] = dict) -> None:
        self.shell = shell
        self._traits = traits
        self._chosen: dict[str, str] = {}
        self._manager: JobExecutionManager | None = None
        self._painter: Painter | None = None
        self._unbound: list[BringsBack] = []
        self._untold: dict[str, None] = {}
        self._forgiven: dict[str, None] = {}
        self._shown: dict[str, None] = {}
        self._closed = False
        self._told = 0

    def settings(self) -> Settings:
        """The settings as they are now. Raises `InvalidRequest` that names what can't be read."""
        return Settings(traits=self._traits(), chosen=self._chosen)

    def choose(self, name: str, text: str) -> None:
        """Set something for this kernel."""
        if name in _FIXED_AT_START and self._manager is not None:
            raise InvalidRequest(f"{name} is fixed once a job has run here. Restart the kernel and set it first.")
        self.settings().choose(name, text)
        self._chosen[name] = text

    @property
    def stable(self) -> bool:
        """Whether what is shown is to be the same in every run."""
        return bool(self.settings()["noninteractive"])

    @property
    def in_kernel(self) -> bool:
        """Whether there is a front end of Jupyter's."""
        return getattr(self.shell, "kernel", None) is not None

    @property
    def manager(self) -> JobExecutionManager:
        """The kernel's one manager."""
        with _lock:
            if self._closed:
                raise InvalidRequest("This session is closed. Run `%load_ext nodetool_jupyter` again.")
            if self._manager is None:
                from ..manager import JobExecutionManager

                self._manager = JobExecutionManager(self.settings(), kernel_id=kernel_id(self.shell))
                atexit.register(self.close)
            return self._manager

    @property
    def painter(self) -> Painter:
        """The thread that shows jobs."""
        with _lock:
            if self._painter is None:
                from .painter import Painter

                self._painter = Painter()
            return self._painter

    @property
    def has_run(self) -> bool:
        """Whether anything needed the manager so far."""
        return self._manager is not None

    def tell_warnings(self) -> None:
        """Write what the manager found at its start, once."""
        said = self.manager.warnings
        for sentence in said[self._told :]:
            print(sentence, file=sys.stderr)
        self._told = len(said)

    @property
    def untold(self) -> list[str]:
        """Ids of the jobs that were started here and of whose end nobody was told, oldest first."""
        return list(self._untold)

    def started(self, job_id: str) -> None:
        """A job was started: somebody is to hear how it ends."""
        _remember(self._untold, job_id)

    def told(self, job_id: str) -> None:
        """Somebody heard how it ended."""
        self._untold.pop(job_id, None)

    def forgive(self, job_id: str) -> None:
        """No cell is to fail when this job does."""
        _remember(self._forgiven, job_id)

    def raises(self, job_id: str) -> bool:
        """Whether a cell that waits for this job fails with it."""
        return job_id not in self._forgiven

    def shown(self, job_id: str) -> None:
        """A cell shows what this job writes."""
        _remember(self._shown, job_id)

    def was_shown(self, job_id: str) -> bool:
        """Whether a cell shows, or showed, what this job writes."""
        return job_id in self._shown

    def bind(self, handle: BringsBack) -> None:
        """Put what a job brings back into the notebook's variables, once it has ended, before the next cell."""
        if handle.brings_back and self.shell is not None:
            self._unbound.append(handle)

    def bind_ended(self, *_: object) -> None:
        """Bind the values of jobs that have ended meanwhile; in the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            return
        ended = [handle for handle in self._unbound if handle.done()]
        for handle in ended:
            self._unbound.remove(handle)
            try:
                handle.put_into(self.shell.user_ns)
            except OutputMissing as error:
                print(error, file=sys.stderr)

    def close(self) -> None:
        """Stop every job and give everything back."""
        with _lock:
            self._closed = True
            manager, self._manager = self._manager, None
            painter, self._painter = self._painter, None
        if manager is not None:
            manager.close()
            atexit.unregister(self.close)
        if painter is not None:
            painter.close()

    def expected_seconds(self, job: Job) -> float | None:
        """How long the same code took the last time that it completed."""
        from ..jobs import JobStatus

        same = self.manager.find(work_hash=job.request.work_hash, statuses={JobStatus.COMPLETED}, limit=1)
        return same[0].duration_seconds if same and job.request.work_hash else None


def _remember(ids: dict[str, None], job_id: str) -> None:
    ids[job_id] = None
    if len(ids) > _MOST_REMEMBERED:
        del ids[next(iter(ids))]


def kernel_id(shell: Any) -> str:
    """Jupyter's id of this kernel, by its connection file: `kernel-<id>.json` under a server; "" without one."""
    application = getattr(getattr(shell, "kernel", None), "parent", None)
    return Path(getattr(application, "connection_file", "") or "").stem.removeprefix("kernel-")


def current() -> Session:
    """The session of this process; without IPython's extension, one for plain Python."""
    global _current
    with _lock:
        if _current is None:
            _current = Session()
        return _current


def replace_current(session: Session | None) -> Session | None:
    """Make this the session of the process; the one before."""
    global _current
    with _lock:
        before, _current = _current, session
        return before
