"""The supervisor's side of a warm parent: children that wait, and how one is given a job."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, NamedTuple

from . import start, zygote
from .cgroups import Group, Hierarchy
from .control import PREFIX, Control, ControlError

_ANSWER_SECONDS = 2.0
_MOST_WAIT_SECONDS = 2.0


class Idle(NamedTuple):
    """A child that waits, in a control group of its own: to be moved there costs more than all else."""

    pid: int
    orders: socket.socket
    group: Group | None


class Handed(NamedTuple):
    """A child that was given a job; `report` ends, or tells what went wrong, as with `start.fork_exec`."""

    pid: int
    report: int
    group: Group | None


class Kept(NamedTuple):
    """A job that waits for a child, since a fork takes less than a new interpreter, and until when it does."""

    order: dict[str, Any]
    descriptors: list[int]
    until: float


class WarmPool:
    """One warm parent and the children that it has forked ahead; each child is used once.

    `key` says what it was made for. `session` is the one in which parent and waiting children live. `offered`: it
    got so far as to fork a child.
    `hear` is to be called when `channel` is readable; it returns `False` once the parent is gone.
    """

    def __init__(self, order: Mapping[str, Any], hierarchies: list[Hierarchy]) -> None:
        self.key: str = order["key"]
        self._group_name: str = order["group"]
        self._hierarchies = hierarchies
        self._size: int = order["idle"]
        self._born = 0
        self._coming: dict[int, Group | None] = {}
        self._kept: list[Kept] = []
        self.offered = False
        self.empty: list[Group] = []
        mine, theirs = socket.socketpair()
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            self.session, report = start.fork_exec(order, [null, null, theirs.fileno()])
        except OSError:
            mine.close()
            raise
        finally:
            theirs.close()
            os.close(null)
        os.close(report)
        self._control = Control(mine)
        self._idle: list[Idle] = []
        self._say({"sys_path": order["sys_path"], "modules": order["modules"], "more": self._expect(self._size)})

    @property
    def channel(self) -> socket.socket:
        """Where the parent is heard."""
        return self._control.socket

    def hear(self) -> bool:
        """Take in the children that the parent offers."""
        try:
            messages = self._control.receive()
        except (OSError, ControlError, ValueError):
            messages = None
        for message in messages or ():
            self.offered = True
            group = self._coming.pop(message["number"], None)
            if group and not message["joined"]:
                self.empty.append(group)
                group = None
            taken = self._control.take(1)
            if taken is not None:
                self._idle.append(Idle(message["pid"], socket.socket(fileno=taken[0]), group))
        return messages is not None

    def _expect(self, count: int) -> list[tuple[int, tuple[str, ...]]]:
        """Children to be forked: a number for each, and the groups that it joins by itself, which takes long."""
        wanted = []
        for _ in range(count):
            self._born += 1
            group = Group(f"{self._group_name}-{self._born}", self._hierarchies)
            self._coming[self._born] = group if group.folders else None
            wanted.append((self._born, group.folders))
        return wanted

    def keep(self, order: dict[str, Any], descriptors: list[int]) -> bool:
        """Whether a job waits here for the next child: where nobody is idle, and one will come soon."""
        if self._idle or not self.offered:
            return False
        self._kept.append(Kept(order, descriptors, monotonic() + _MOST_WAIT_SECONDS))
        self.refill()
        return True

    def ready(self) -> Iterator[tuple[dict[str, Any], list[int]]]:
        """Jobs that waited for a child, as long as there is one; and those that waited too long."""
        while self._kept and (self._idle or self.due() <= monotonic()):
            kept = self._kept.pop(0)
            yield kept.order, kept.descriptors

    def due(self) -> float:
        """When somebody has waited too long."""
        return self._kept[0].until if self._kept else math.inf

    def drop(self, job: str | None = None) -> bool:
        """Give up a job that waits, or all of them; whether there was one."""
        gone = [kept for kept in self._kept if job in (None, kept.order["job"])]
        self._kept = [kept for kept in self._kept if kept not in gone]
        for kept in gone:
            for descriptor in kept.descriptors:
                os.close(descriptor)
        return bool(gone)

    def hand_out(self, order: Mapping[str, Any], descriptors: Sequence[int]) -> Handed | None:
        """Give a job to a waiting child; `None` when nobody waits."""
        data = json.dumps({**order, "parent": os.getpid()}, separators=(",", ":")).encode("ascii")
        message = PREFIX.pack(len(data)) + data
        while self._idle:
            idle = self._idle.pop(0)
            if _given(idle.orders, message, descriptors):
                return Handed(idle.pid, idle.orders.detach(), idle.group)
            self._dismiss(idle)
        return None

    def refill(self) -> None:
        """Have new children forked for those that were handed out, and for jobs that wait."""
        missing = self._size + len(self._kept) - len(self._idle) - len(self._coming)
        if missing > 0:
            self._say({"more": self._expect(missing)})

    def close(self) -> list[tuple[dict[str, Any], list[int]]]:
        """End the parent and every child that still waits; `empty` are the groups that are left.

        Returns the jobs that waited for one, with their descriptors.
        """
        self._control.close()
        self.empty += [group for group in self._coming.values() if group]
        self._coming.clear()
        for idle in self._idle:
            self._dismiss(idle)
        self._idle.clear()
        with suppress(ProcessLookupError):
            os.kill(self.session, signal.SIGTERM)
        kept, self._kept = self._kept, []
        return [(each.order, each.descriptors) for each in kept]

    def _dismiss(self, idle: Idle) -> None:
        idle.orders.close()
        with suppress(ProcessLookupError):
            os.kill(idle.pid, signal.SIGKILL)
        if idle.group:
            self.empty.append(idle.group)

    def _say(self, message: dict[str, Any]) -> None:
        try:
            self._control.send(message)
        except OSError:
            return  # it is gone; `hear` finds out


def _given(orders: socket.socket, message: bytes, descriptors: Sequence[int]) -> bool:
    """Whether the child has it: one that was killed while it waited never answers."""
    orders.settimeout(_ANSWER_SECONDS)
    try:
        sent = socket.send_fds(orders, [message], list(descriptors))
        return sent == len(message) and orders.recv(1) == zygote.TAKEN
    except OSError:
        return False
    finally:
        orders.setblocking(True)
