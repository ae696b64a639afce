"""The supervisor's side of a warm parent: children that wait, and how one is given a job."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from . import start, zygote
from .cgroups import Group, Hierarchy
from .control import PREFIX, Control, ControlError

_ANSWER_SECONDS = 2.0


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


class WarmPool:
    """One warm parent and the children that it has forked ahead; each child is used once.

    `key` says what it was made for. `session` is the one in which parent and waiting children live.
    `hear` is to be called when `channel` is readable; it returns `False` once the parent is gone.
    """

    def __init__(self, order: Mapping[str, Any], hierarchies: list[Hierarchy]) -> None:
        self.key: str = order["key"]
        self._group_name: str = order["group"]
        self._hierarchies = hierarchies
        self._size: int = order["idle"]
        self._coming = self._size
        self._born = 0
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
        self._say({"sys_path": order["sys_path"], "modules": order["modules"], "idle": order["idle"]})

    @property
    def offered(self) -> bool:
        """Whether the parent got so far as to fork a child."""
        return self._coming < self._size or self._born > 0

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
            self._coming -= 1
            taken = self._control.take(1)
            if taken is not None:
                self._idle.append(self._settle(message["pid"], socket.socket(fileno=taken[0])))
        return messages is not None

    def _settle(self, pid: int, orders: socket.socket) -> Idle:
        if not self._hierarchies:
            return Idle(pid, orders, None)
        self._born += 1
        group = Group(f"{self._group_name}-{self._born}", self._hierarchies)
        if not group.attach(pid):
            group.remove()
            return Idle(pid, orders, None)
        return Idle(pid, orders, group)

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
        """Have new children forked for those that were handed out; at a moment when nobody waits for a job."""
        missing = self._size - len(self._idle) - self._coming
        if missing > 0:
            self._coming += missing
            self._say({"more": missing})

    def close(self) -> None:
        """End the parent and every child that still waits; `empty` are the groups that are left."""
        self._control.close()
        for idle in self._idle:
            self._dismiss(idle)
        self._idle.clear()
        with suppress(ProcessLookupError):
            os.kill(self.session, signal.SIGTERM)

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
