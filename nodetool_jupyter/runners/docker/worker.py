"""One job in a container, seen from the manager."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from typing import Any

import anyio

from ...errors import ProtocolError
from ...events import Exit, Isolation, UsageUpdate
from ...frames import Raised, Report, Returned, Value
from ...jobs import Job
from ...worker import wire
from ..process_exit import describe
from ..process_worker import value_frame
from .attach import Attached, Reader
from .boxes import Box
from .engine import Engine, EngineRefused, EngineUnavailable
from .images import Image
from .isolation import isolation_of
from .ladder import Ladder
from .usage import UsageStream
from .watch import Watch

_SETTLE_SECONDS = 10.0
_ASK_AGAIN_SECONDS = 0.5
_UNKILLABLE, _ENGINE_LOST = "unkillable", "engine_lost"
_LOST = "The engine went away, or its connection broke, while the job ran."
_STUCK = (
    "The engine did not confirm its end in the time after SIGKILL. Its container is removed as soon as the engine "
    "does as it is told."
)


class DockerWorker:
    """The worker of the `docker` runner. first: the frames that give it its work, sent at once."""

    def __init__(
        self,
        job: Job,
        engine: Engine,
        box: Box,
        *,
        image: Image,
        first: Sequence[Sequence[wire.Buffer]],
        executor: Executor,
        watch: Watch,
        watched: int,
        leases: ExitStack,
    ) -> None:
        self._job = job
        self._engine = engine
        self._box = box
        self._image = image
        self._attached = Attached(box.connection, box.parts)
        for frame in first:
            self._attached.send_frame(frame)
        self._reader = Reader(max_body_bytes=job.request.most_bytes_back)
        self._ladder = Ladder(engine, box.id, executor, self._give_up)
        self._usage = UsageStream(engine, box.id, self._measured)
        self._measure: UsageUpdate | None = None
        self._exit: Exit | None = None
        self._settling = anyio.Lock()
        self._stuck = False
        self._executor = executor
        self._watch = watch
        self._watched = watched
        self._leases = leases

    def isolation(self) -> Isolation:
        """What `inspect` confirmed before the container started."""
        return isolation_of(self._job.request, self._box, self._image)

    async def reports(self) -> AsyncIterator[Sequence[Report]]:
        """What comes on the container's stream, and what the engine measures."""
        self._usage.start()
        until = math.inf
        while not self._attached.ended.is_set() or self._attached.untaken:
            await self._woken(until)
            batch = self._reader.reports(self._attached.take())
            if any(isinstance(report, Returned | Raised) for report in batch):
                until = min(until, time.monotonic() + self._job.request.grace_seconds)
            if self._measure:
                batch.append(self._measure)
                self._measure = None
            if batch:
                yield batch
            if time.monotonic() >= until and not self._attached.untaken:
                break
        if self._attached.fault:
            raise ProtocolError(self._attached.fault)
        last = [*self._reader.last(), *self._all_in_all()]
        if last:
            yield last

    async def _woken(self, until: float) -> None:
        timeout = None if until == math.inf else max(0.0, until - time.monotonic())
        try:
            async with asyncio.timeout(timeout):
                await self._attached.wake.wait()
        except TimeoutError:
            return
        self._attached.wake.clear()

    def feed(self, value: Value) -> None:
        """Send a value on the channel, after what is on its way."""
        self._attached.send_frame(value_frame(value, kind="feed"))

    def stop(self, grace_seconds: float) -> None:
        """Begin the ladder; the first call counts."""
        if self._exit is None:
            self._ladder.begin(grace_seconds)

    async def wait(self) -> Exit:
        """How it ended, once the engine says that nothing of it runs."""
        await self._attached.ended.wait()
        async with self._settling:
            if self._exit is None:
                state = None if self._stuck else await self._final_state()
                self._ladder.end()
                self._exit = self._describe(state)
        return self._exit

    async def end(self) -> None:
        """Stop it if it still runs. It is removed a moment later, for which nobody waits, or when the engine can."""
        if not self._attached.ended.is_set():
            self.stop(0.0)
            self._attached.close()
        self._usage.stop()
        ended = await self.wait()
        if ended.cause in (_UNKILLABLE, _ENGINE_LOST):
            # it may go on there, and with it what it has of a GPU
            self._engine.left.add(self._box.id, then=self._leases.pop_all().close)
        else:
            self._executor.submit(self._engine.remove, self._box.id)

    def _give_up(self) -> None:
        self._stuck = True
        self._attached.close()

    def _measured(self, usage: UsageUpdate) -> None:
        self._measure = usage
        self._attached.wake.set()

    def _all_in_all(self) -> list[Report]:
        note = self._attached.note or {}
        peak = _number(note, "peak_memory_bytes")
        return (
            [UsageUpdate(peak_memory_bytes=peak, cpu_seconds=round(_number(note, "cpu_nanoseconds") / 1e9, 3))]
            if peak
            else []
        )

    async def _final_state(self) -> Mapping[str, Any] | None:
        """The engine's last word on the container; `None` when it can't be had, or is not about this job's end."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            state: Mapping[str, Any] | None
            try:
                state = await self._engine.call(self._ask_state, seconds=_SETTLE_SECONDS)
            except EngineRefused as error:
                state = {"removed": True} if error.status == 404 else None
            except EngineUnavailable:
                state = None
            if state is not None and self._explained(state):
                return state
            if await anyio.to_thread.run_sync(self._watch.same, self._watched):
                if state is not None:
                    return None if state.get("Running") else state
            elif self._watch.stood != self._watched or not self._watch.stands:
                return None
            if time.monotonic() > deadline:
                return None
            await anyio.sleep(_ASK_AGAIN_SECONDS)

    def _ask_state(self, client: Any) -> Mapping[str, Any]:
        if self._attached.note is not None or self._ladder.sent:
            client.wait(self._box.id, timeout=_SETTLE_SECONDS)
        state: Mapping[str, Any] = client.inspect_container(self._box.id)["State"]
        return state

    def _explained(self, state: Mapping[str, Any]) -> bool:
        """Whether what ended it is known to be no engine that ended, which terminates and kills as others do."""
        note, ours = self._attached.note, {name for name, _ in self._ladder.sent}
        if note is None:
            return bool(state.get("OOMKilled")) or "SIGKILL" in ours
        return all(name in ours for name in _told_in(note))

    def _describe(self, state: Mapping[str, Any] | None) -> Exit:
        receipt = self._receipt(state or {})
        if self._stuck:
            return Exit(cause=_UNKILLABLE, sent=_told(receipt), detail=_STUCK)
        if state is None:
            return Exit(cause=_ENGINE_LOST, sent=_told(receipt), detail=_LOST)
        return describe(
            receipt,
            limits=self._job.request.limits,
            defaults=self._box.spec.defaults,
            stderr_tail=self._reader.stderr.tail,
        )

    def _receipt(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """In the words of the supervisor of processes, which does the same."""
        note = self._attached.note or {}
        told = _told_in(note)
        status = _number(note, "status") if "status" in note else _status(int(state.get("ExitCode", 0)))
        killed = any(name == "SIGKILL" for name, _ in self._ladder.sent)
        if state.get("removed"):
            status = -9
        return {
            "status": status,
            "stuck": self._stuck,
            "oom_kills": 1 if state.get("OOMKilled") else 0,
            "killed_for": None,
            "peak_memory_bytes": _number(note, "peak_memory_bytes"),
            "by_us": killed,
            "refused_forks": _number(note, "refused_forks"),
            "reaped": _number(note, "left") + 1,
            "sent": [(name, round(at, 3), told.get(name, 1)) for name, at in self._ladder.sent],
            "cpu_seconds": _number(note, "cpu_nanoseconds") / 1e9,
        }


def _status(code: int) -> int:
    """A shell's number for a signal as Python has it."""
    return 128 - code if 128 < code < 160 else code


def _number(note: Mapping[str, Any], name: str) -> int:
    value = note.get(name, 0)
    return value if type(value) is int and abs(value) < 2**63 else 0


def _told_in(note: Mapping[str, Any]) -> dict[str, int]:
    """The signals that came to the container's first process, each with how many heard of it."""
    told = note.get("told")
    if not isinstance(told, list) or not all(
        isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) and type(entry[1]) is int
        for entry in told
    ):
        return {}
    return dict(told)


def _told(receipt: Mapping[str, Any]) -> tuple[Any, ...]:
    from ...events import Signalled

    return tuple(Signalled(name, at, count) for name, at, count in receipt["sent"])
