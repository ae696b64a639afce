"""The supervisor: owns every process of a kernel's jobs, reaps whole trees, outlives the kernel by a second.

Started as `python -I -S supervisor.py CHANNEL OWNER grouped|plain` in a session of its own. It is the reaper of all
that jobs start. Its only thread never blocks on the owner: stops run their course while a kernel hangs.

    to it      spawn {job argv env cwd rlimits nice limits required group folder warm} + descriptors for 1, 2, 3
               enclosed: argv is a sandbox around the job, and gets a descriptor 4; processors: those it may use
               warm {key argv env cwd sys_path modules idle}: keep children waiting for spawns that say this key
               stop {job grace} · usage {job on}
    from it    started {job pid held warm} · not_started {job step errno} · usage {job …} · ended {job …} · fault {text}
"""

from __future__ import annotations

import errno
import math
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

if __name__ == "__main__":
    # started by its path: make the package importable without touching sys.path
    _package = type(sys)("nodetool_jupyter")
    _package.__path__ = [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
    sys.modules["nodetool_jupyter"] = _package
    __package__ = "nodetool_jupyter.worker"

from . import cgroups, folders, start, tree
from .census import Census
from .control import Control
from .supervised import UNKILLABLE_SECONDS, Supervised
from .warm import Handed, WarmPool

_MOST_FAULTS = 100
_BURY_SECONDS = 0.005
_GROUP_LIMITS = ("memory_bytes", "pids", "cpus")
_WATCHED_LIMITS = ("memory_bytes", "pids", "cpu_seconds")


class Supervisor:
    """The loop: one selector over the channel, the owner's life, children and starts."""

    def __init__(self, control: Control, owner: int, *, hierarchies: list[cgroups.Hierarchy]) -> None:
        self._control: Control | None = control
        self._hierarchies = hierarchies
        self._census = Census()
        self._warm: WarmPool | None = None
        self._warm_again: dict[str, Any] | None = None
        self._empty: list[cgroups.Group] = []
        self._folders: set[str] = set()
        self._until = math.inf
        self._faults = 0
        self._heir: list[str] = []
        self._spared: set[int] = set()
        self._selector = selectors.DefaultSelector()
        self._selector.register(control.socket, selectors.EVENT_READ, self._hear)
        self._watch_children()
        self._watch_owner(owner)

    def run(self) -> None:
        """Work until the owner is gone and everything that it had started is, too."""
        while self._control or (self._census.jobs and time.monotonic() < self._until):
            try:
                self._turn()
            except Exception:
                # one job's trouble must not end the watch over the others; a fault that stays does
                self._faults += 1
                if self._faults > _MOST_FAULTS:
                    raise
                self._say({"op": "fault", "text": _describe_fault()})
        self._cool()
        tree.send([pid for pid in tree.children_of_this_process() if pid not in self._spared], signal.SIGKILL)
        self._bury()
        for folder in self._folders:
            folders.remove(folder)

    def _turn(self) -> None:
        due = min((each.due() for each in self._census.jobs.values()), default=math.inf)
        due = min(due, self._warm.due() if self._warm else math.inf)
        timeout = max(0.0, min(due - time.monotonic(), 1.0 if self._polls_owner else math.inf))
        for key, _ in self._selector.select(timeout if timeout < math.inf else None):
            key.data()
        if self._polls_owner and os.getppid() != self._owner:
            self._orphaned()
        self._reap()
        for order, descriptors in self._warm.ready() if self._warm else ():
            self._spawn(order, descriptors, self._warm)
        if self._empty:
            self._empty = [group for group in self._empty if not group.remove()]
        for supervised in list(self._census.jobs.values()):
            self._tend(supervised)

    def _tend(self, supervised: Supervised) -> None:
        was_stuck = supervised.stuck
        used = supervised.tick(time.monotonic(), lambda: self._census.members(supervised))
        if used and self._control and not self._control.unsent:
            self._say({"op": "usage", "job": supervised.job, **used})
        if supervised.stuck and not was_stuck:
            self._say({"op": "ended", "job": supervised.job, **supervised.receipt()})
        if not supervised.gone:
            return
        self._reap()  # whoever hears of the end may look: who died since the last time is still listed
        self._census.discard(supervised.job)
        if supervised.failed_step:
            step, number = supervised.failed_step
            self._say({"op": "not_started", "job": supervised.job, "step": step, "errno": number})
        elif not supervised.stuck:
            self._say({"op": "ended", "job": supervised.job, **supervised.receipt()})
        if self._warm:
            self._warm.refill()
        elif self._warm_again:
            self._op_warm(self._warm_again)

    def _hear(self) -> None:
        if not self._control:
            return
        self._control_flush()
        messages = self._control.receive() if self._control else []
        if messages is None:
            self._orphaned()
            return
        for message in messages:
            operation: Callable[[dict[str, Any]], None] = getattr(self, f"_op_{message['op']}")
            operation(message)

    def _op_spawn(self, order: dict[str, Any]) -> None:
        assert self._control
        descriptors = self._control.take(4 if order.get("enclosed") else 3)
        self._folders.add(order["folder"])
        if descriptors is None:
            self._say({"op": "not_started", "job": order["job"], "step": "start", "errno": errno.EMFILE})
            return
        warm = self._warm if self._warm and self._warm.key == order["warm"] else None
        if not (warm and warm.keep(order, descriptors)):
            self._spawn(order, descriptors, warm)

    def _spawn(self, order: dict[str, Any], descriptors: list[int], warm: WarmPool | None) -> None:
        """Give the job to a child that waits, or else to a new process. Closes the descriptors."""
        try:
            handed = warm.hand_out(order, descriptors) if warm else None
            started = handed or self._start(order, descriptors)
        except OSError as error:
            self._say({"op": "not_started", "job": order["job"], "step": "start", "errno": error.errno})
            return
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._watch_start(order, started, warm=handed is not None)

    def _start(self, order: dict[str, Any], descriptors: list[int]) -> Handed:
        """A new process. A sandbox forks at once, so it must be in its group before."""
        group = self._group(order)
        join = group.join if group and order.get("enclosed") else None
        try:
            return Handed(*start.fork_exec(order, descriptors, join=join), group)
        except OSError:
            self._empty += [group] if group else []
            raise

    def _group(self, order: dict[str, Any]) -> cgroups.Group | None:
        return cgroups.Group(order["group"], self._hierarchies) if self._hierarchies else None

    def _op_warm(self, order: dict[str, Any]) -> None:
        self._cool()
        self._warm_again = None
        try:
            self._warm = pool = WarmPool(order, self._hierarchies)
        except OSError:
            return  # without it jobs start a little later; the next order tries again
        self._census.apart.add(pool.session)

        def hear() -> None:
            alive = pool.hear()
            for kept, descriptors in pool.ready():
                self._spawn(kept, descriptors, pool)
            if not alive and pool is self._warm:  # a new one may have come in the same turn
                self._cool()
                self._warm_again = order if pool.offered else None

        self._selector.register(pool.channel, selectors.EVENT_READ, hear)

    def _cool(self) -> None:
        pool, self._warm = self._warm, None
        if pool:
            self._selector.unregister(pool.channel)
            kept = pool.close()
            self._empty += pool.empty
            for order, descriptors in kept:
                self._spawn(order, descriptors, None)

    def _watch_start(self, order: dict[str, Any], handed: Handed, *, warm: bool) -> None:
        """Put the new process under its limits while it boots, and wait until it is the job's."""
        pid, report, group = handed
        limits = order["limits"]
        held = group.hold({name: limits[name] for name in _GROUP_LIMITS if name in limits}) if group else {}
        enclosed = bool(order.get("enclosed"))
        if group and not warm and not enclosed and not group.attach(pid):
            held = {}
        watched = {name: limits[name] for name in _WATCHED_LIMITS if name in limits and name not in held}
        supervised = Supervised(
            order["job"], pid, group=group, watched=watched, folder=order["folder"], enclosed=enclosed
        )
        self._census.jobs[supervised.job] = supervised

        def started() -> None:
            self._selector.unregister(report)
            supervised.starting = False
            supervised.failed_step = start.failure(os.read(report, 4096))
            os.close(report)
            missing = [name for name in order["required"] if name in _GROUP_LIMITS and name not in held]
            if not supervised.failed_step and missing:
                supervised.failed_step = f"limit {missing[0]}", 0
                supervised.stop(0, time.monotonic())
            if not supervised.failed_step:
                self._say({"op": "started", "job": supervised.job, "pid": pid, "held": held, "warm": warm})

        self._selector.register(report, selectors.EVENT_READ, started)

    def _op_stop(self, message: dict[str, Any]) -> None:
        supervised = self._census.jobs.get(message["job"])
        if supervised:
            supervised.stop(message["grace"], time.monotonic())
        elif self._warm and self._warm.drop(message["job"]):
            self._say({"op": "not_started", "job": message["job"], "step": "start", "errno": 0})

    def _op_usage(self, message: dict[str, Any]) -> None:
        supervised = self._census.jobs.get(message["job"])
        if supervised:
            supervised.want_usage(message["on"], time.monotonic())

    def _op_heir(self, message: dict[str, Any]) -> None:
        self._heir = message["argv"]

    def _op_forget(self, message: dict[str, Any]) -> None:
        self._folders.discard(message["folder"])

    def _bury(self) -> None:
        """Wait for the children that were just killed, and remove the groups that they leave empty."""
        until = time.monotonic() + UNKILLABLE_SECONDS
        while set(tree.children_of_this_process()) - self._spared and time.monotonic() < until:
            self._reap()
            time.sleep(_BURY_SECONDS)
        for group in self._empty:
            group.remove()

    def _reap(self) -> None:
        leaders = self._census.by_leader()
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._census.apart.discard(pid)
            if pid in leaders:
                leaders[pid].leader_ended(
                    os.waitstatus_to_exitcode(status),
                    peak_bytes=used.ru_maxrss << 10,
                    cpu_seconds=used.ru_utime + used.ru_stime,
                    now=time.monotonic(),
                )

    def _orphaned(self) -> None:
        """Nobody is there any more: end everything within two seconds, then this process."""
        if not self._control:
            return
        self._selector.unregister(self._control.socket)
        self._control.close()
        self._control = None
        if self._warm:
            self._warm.drop()
        if self._heir:
            self._start_heir()
        now = time.monotonic()
        self._until = now + UNKILLABLE_SECONDS
        for supervised in self._census.jobs.values():
            supervised.end(now)

    def _start_heir(self) -> None:
        """In a session of its own and forgotten: it outlives this process."""
        null = [(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_RDWR, 0) for n in range(3)]
        try:
            pid = os.posix_spawn(self._heir[0], self._heir, {}, file_actions=null, setsid=True)
        except OSError:
            return
        self._census.apart.add(pid)
        self._spared.add(pid)

    def _say(self, message: dict[str, Any]) -> None:
        if self._control:
            try:
                self._control.send(message)
            except OSError:
                self._orphaned()
            else:
                self._control_flush()

    def _control_flush(self) -> None:
        """Send what waits; as long as something does, wake up when the owner reads again."""
        if self._control:
            try:
                self._control.flush()
            except OSError:
                self._orphaned()
                return
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._control.unsent else 0)
            self._selector.modify(self._control.socket, wanted, self._hear)

    def _watch_children(self) -> None:
        waker, wakened = socket.socketpair()
        waker.setblocking(False)
        wakened.setblocking(False)
        signal.set_wakeup_fd(wakened.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._wakers = waker, wakened
        self._selector.register(waker, selectors.EVENT_READ, lambda: waker.recv(4096))

    def _watch_owner(self, owner: int) -> None:
        """Learn of the owner's death even while something that it forked holds its end of the channel."""
        self._owner = owner
        self._polls_owner = not hasattr(os, "pidfd_open")
        if not self._polls_owner:
            try:
                life = os.pidfd_open(owner)
            except OSError:
                self._polls_owner = True
                return

            def died() -> None:
                self._selector.unregister(life)
                self._orphaned()

            self._selector.register(life, selectors.EVENT_READ, died)


def _describe_fault() -> str:
    import traceback

    return traceback.format_exc()


def main(channel: int, owner: int, *, grouped: bool) -> None:
    """Run until the owner's end of the channel, or the owner itself, is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(channel, False)
    start.become_reaper()
    hierarchies = cgroups.find() if grouped else []
    cgroups.remove_stale(hierarchies)
    Supervisor(Control(socket.socket(fileno=channel)), owner, hierarchies=hierarchies).run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), grouped=sys.argv[3] == "grouped")
