"""What runs while a manager is started: its loop, its ledger, its live jobs."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self
from weakref import WeakValueDictionary

from .admission import Admission
from .assets import AssetFolder
from .config import Settings, data_dir
from .errors import JobExists
from .feed import Feed, Subscription
from .frames import Value
from .housekeeping import announce, retire
from .jobs import Job
from .keeper import Keeper
from .ledger import Ledger
from .loop import LoopThread
from .places import job_root, owner_root
from .runners.base import Parcel, Reserver, Runner, Sweeper
from .stores import open_store
from .stores.base import Change, JobStore, Owner
from .supervision import Outcome, Supervision
from .verdict import StopCause

_CLOSE_SECONDS = 10.0
_CLOSE_GRACE_SECONDS = 1.0
_ASK_AGAIN_SECONDS = 0.5
_REMEMBERED_OUTCOMES = 16
_CLOSING = "Cancelled: the kernel was shut down."


def assets_folder(settings: Settings, owner: Owner) -> Path:
    """Where the files of jobs are kept: beside the store, or no longer than the manager."""
    return data_dir() / "nodetool" / "assets" if settings.database_url else owner_root(owner.id) / "assets"


def private_folders(settings: Settings) -> tuple[Path, ...]:
    """What no container may be shown: jobs, their files, and where they are kept."""
    url = settings.database_url
    kept = (Path(url.partition("///")[2]).parent,) if url.startswith("sqlite") else ()
    return (data_dir() / "nodetool", job_root(), *kept)


class _Live:
    """A job that has not ended: what is stored of it, and who listens."""

    def __init__(self, engine: Engine, job: Job, parcel: Parcel, runner: Runner, assets: AssetFolder) -> None:
        self.committed = job
        self.feed = Feed()
        self.ended = threading.Event()
        self._engine = engine
        self.supervision = Supervision(job, parcel, runner, self, assets)

    def put(self, change: Change, settled: Callable[[Exception | None], None]) -> None:
        loop = self._engine.loop
        self._engine.ledger.put(
            change, lambda change, error: loop.post(self._engine.settle, self, change, error, settled)
        )


class Engine:
    """Made by `started`; `close` ends every job and gives all back."""

    def __init__(
        self, settings: Settings, owner: Owner, store: JobStore, runners: Sequence[Runner], admission: Admission
    ) -> None:
        self.owner = owner
        self.store = store
        self.loop = LoopThread("nodetool-manager")
        self.ledger = Ledger(store, tell=lambda error: self.loop.post(self._tell_trouble, str(error or "")))
        self.keeper = Keeper(store, owner, [runner for runner in runners if isinstance(runner, Sweeper)])
        self.warnings: list[str] = []
        self._runners = runners
        self._admission = admission
        self._live: dict[str, _Live] = {}
        self._watchers: dict[object, Callable[[str], None]] = {}
        self._unstored: dict[str, Job] = {}
        self._reservers = {runner.name: runner for runner in runners if isinstance(runner, Reserver)}
        self._asks_again = False
        self._in_line: Mapping[str, str] = {}
        self._lock = threading.Lock()
        self._outcomes: WeakValueDictionary[str, Outcome] = WeakValueDictionary()
        self._kept: OrderedDict[str, tuple[Job, Outcome]] = OrderedDict()
        self._assets = assets_folder(settings, owner)

    @classmethod
    def started(
        cls, settings: Settings, owner: Owner, store: JobStore | None, runners: Sequence[Runner], admission: Admission
    ) -> Self:
        """Open the store, make this manager known and start the threads. Raises `StoreError`."""
        if store is None:
            opened = open_store(settings)
        else:
            opened = store
            opened.open()
        opened.register(owner)
        announce(owner)
        engine = cls(settings, owner, opened, runners, admission)
        engine.keeper.end_lost()  # before anybody lists jobs
        engine.ledger.start()
        engine.loop.start()
        engine.loop.post(engine.loop.start_soon, engine.keeper.run)
        engine.loop.post(engine.loop.start_soon, engine.keeper.sweep_runners)
        return engine

    def submit(self, job: Job, parcel: Parcel, runner: Runner) -> Job:
        """Store a job and queue it; returns once it is stored. From any thread but the loop's."""
        self._admission.reserve()
        assets = AssetFolder(self._assets, job.id, max_bytes=job.request.most_bytes_back)
        live = _Live(self, job, parcel, runner, assets)
        with self._lock:
            if job.id in self._live:
                self._admission.give_up()
                raise JobExists(job.id)
            self._live[job.id] = live
        failure: list[Exception] = []
        stored = threading.Lock()
        stored.acquire()

        def settled(change: Change, error: Exception | None) -> None:
            if error is None:
                self.loop.post(self._queue, live, change)
            else:
                failure.append(error)
            stored.release()

        first = live.supervision.first_change()
        self.ledger.put(first, settled, patient=False)
        stored.acquire()
        if failure:
            self._admission.give_up()
            with self._lock:
                del self._live[job.id]
            raise failure[0]
        self._outcomes[job.id] = live.supervision.outcome
        return first.job

    def cancel(self, job_id: str, grace_seconds: float | None) -> bool | None:
        """Whether a live job was asked to stop; `None` when it isn't live here."""
        live = self._live.get(job_id)
        return None if live is None else self.loop.call(self._stop, live, StopCause.CANCEL, "", grace_seconds)

    def feed(self, job_id: str, value: Value) -> bool:
        """Whether a value was sent to a live job."""
        live = self._live.get(job_id)
        return live is not None and self.loop.call(live.supervision.feed, value)

    def committed(self, job_id: str) -> Job | None:
        """The stored state of a live job, or of one whose end the store did not take."""
        live = self._live.get(job_id)
        return self._unstored.get(job_id) if live is None else live.committed

    def wait(self, job_id: str, timeout: float | None) -> Job | None:
        """A job once it has ended and everyone has heard of it; `None` when it is none of here, or not in time."""
        live = self._live.get(job_id)
        if live is not None:
            return live.committed if live.ended.wait(timeout) else None
        kept = self._kept.get(job_id)
        return None if kept is None else kept[0]

    def outcome(self, job_id: str) -> Outcome:
        """The values of a job of this manager; empty when they are forgotten."""
        found = self._outcomes.get(job_id)
        return Outcome() if found is None else found  # one that is still empty is the one to hold on to

    def join(self, job_id: str, subscription: Subscription) -> bool:
        """Whether a subscription is served by the live feed from now on; on the loop only."""
        live = self._live.get(job_id)
        return live is not None and live.feed.join(subscription)

    def watch_store(self, watcher: Callable[[str], None]) -> Callable[[], None]:
        """See `JobExecutionManager.watch_store`."""
        key = object()

        def join() -> None:
            self._watchers[key] = watcher
            if trouble := self.ledger.trouble:
                watcher(str(trouble))

        self.loop.post(join)
        return lambda: self.loop.post(self._watchers.pop, key, None)

    def _tell_trouble(self, trouble: str) -> None:
        for watcher in tuple(self._watchers.values()):
            watcher(trouble)

    def settle(
        self, live: _Live, change: Change, error: Exception | None, settled: Callable[[Exception | None], None]
    ) -> None:
        """A change is stored, or can never be; on the loop only. A job's end is told even then."""
        settled(error)
        final = change.job.status.final
        if error is None or final:
            live.committed = change.job
            live.feed.publish(change.events)
        if final:
            if error is not None:
                self._unstored[change.job.id] = change.job
            self._end(live, change.job)

    def _queue(self, live: _Live, change: Change) -> None:
        self._admission.join(change.job.id, change.job.request.runner)
        self._start_admitted()
        live.feed.publish(change.events)  # whoever hears of them can ask what it waits for

    def _start_admitted(self) -> None:
        in_line: dict[str, str] = {}
        lacking: set[tuple[str, str]] = set()

        def ready(job_id: str) -> bool:
            job = self._live[job_id].supervision.job
            reserver = self._reservers.get(job.request.runner)
            if reserver is None:
                return True
            wanted = job.request.runner, reserver.wants(job)
            if wanted in lacking or not reserver.reserve(job):
                lacking.add(wanted)
                in_line[job_id] = reserver.reserves
                return False
            return True

        for job_id in self._admission.admit(ready):
            self.loop.start_soon(self._supervise, self._live[job_id])
        self._in_line = in_line
        if in_line and not self._asks_again:  # another process gives it back, and tells nobody
            self._asks_again = True
            self.loop.later(_ASK_AGAIN_SECONDS, self._ask_again)

    def _ask_again(self) -> None:
        self._asks_again = False
        self._start_admitted()

    async def _supervise(self, live: _Live) -> None:
        await live.supervision.run()
        if reserver := self._reservers.get(live.committed.request.runner):
            reserver.unreserve(live.committed.id)
        self._admission.done(live.committed.request.runner)
        self._start_admitted()

    def waits_for(self, job_id: str) -> str:
        """What a queued job waits for; "" for any other. From any thread."""
        what = self._in_line.get(job_id, "")
        return f"waits for {what} that another job has" if what else self._admission.waits_for(job_id)

    def _stop(self, live: _Live, cause: StopCause, complaint: str, grace_seconds: float | None) -> bool:
        self._admission.leave(live.committed.id)
        return live.supervision.stop(cause, complaint, grace_seconds)

    def _end(self, live: _Live, job: Job) -> None:
        with self._lock:
            self._live.pop(job.id, None)
        self._kept[job.id] = job, live.supervision.outcome
        while len(self._kept) > _REMEMBERED_OUTCOMES:
            self._kept.popitem(last=False)
        if live.feed.heard:  # those who listen hear of it before those who wait
            self.loop.post(live.ended.set)
        else:
            live.ended.set()

    def close(self) -> None:
        """Stop every job, wait for their ends as long as they can end, and give all back."""
        waiting = list(self._live.values())
        for live in waiting:
            self.loop.call(self._stop, live, StopCause.CANCEL, _CLOSING, _CLOSE_GRACE_SECONDS)
        until = time.monotonic() + _CLOSE_SECONDS
        for live in waiting:
            live.ended.wait(max(0.0, until - time.monotonic()))
        self.loop.finish(self._close_runners)
        self.ledger.close()
        if not self._live:
            self.store.unregister(self.owner.id)
        self.store.close()
        if not self._live:
            retire(self.owner.id)

    async def _close_runners(self) -> None:
        for runner in self._runners:
            await runner.close()
