"""Containers with a worker that waits for its job: made in one go, audited before they start, removed whole."""

from __future__ import annotations

import select
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...jobs import Profile
from ..base import WorkerNotStarted
from .attach import Parts, hang_up
from .engine import LONG_SECONDS, CallOff, Engine, EngineRefused, EngineUnavailable
from .failures import not_started
from .handshake import CALLED_OFF, handshake, patience, send_ahead
from .lines import Line
from .spec import ContainerSpec, differences, update_fields

if TYPE_CHECKING:
    from docker import APIClient

_MOST_SHOWN = 120
_LIMIT_FIELDS = {
    "Memory": "memory_bytes",
    "MemorySwap": "memory_bytes",
    "NanoCpus": "cpus",
    "PidsLimit": "pids",
    "ShmSize": "shm_bytes",
}


@dataclass(frozen=True, kw_only=True)
class Box:
    """One container whose worker has said that it is ready. parts: the state of its stream so far."""

    id: str
    name: str
    spec: ContainerSpec
    connection: socket.socket
    parts: Parts
    python: str
    not_held: tuple[str, ...] = ()

    def alive(self) -> bool:
        """Whether its stream still stands and nothing was said on it."""
        poll = select.poll()  # `select` takes no descriptor above 1023
        poll.register(self.connection.fileno(), select.POLLIN)
        return not poll.poll(0)


class BoxRefused(WorkerNotStarted):
    """The container could not be made as it must be; nothing is left of it."""


def open_box(
    engine: Engine,
    spec: ContainerSpec,
    *,
    name: str,
    labels: Mapping[str, str],
    profile: Profile,
    asked: frozenset[str],
    stop: CallOff,
    wall_seconds: float | None,
) -> Box:
    """Create, audit, attach, start, and wait until the worker is ready; blocks.

    asked: the limits that must be held. wall_seconds: the job's own time limit. Raises `WorkerNotStarted`; then
    nothing is left.
    """
    created = _create(engine, spec, name, labels)
    connection: socket.socket | None = None
    try:
        warnings = created.get("Warnings") or []
        lacking = audit(engine, created["Id"], spec, profile=profile, asked=asked, warnings=warnings)
        _go_on(stop)
        connection = engine.ask(lambda client: _attach(client, created["Id"]), seconds=LONG_SECONDS)
        unsent = send_ahead(connection)
        engine.ask(lambda client: client.start(created["Id"]), seconds=LONG_SECONDS)
        with stop.closing(_HangUp(connection)):
            python, parts = handshake(connection, unsent, stop, seconds=patience(wall_seconds))
    except BaseException as error:
        if connection is not None:
            _end(connection)
        engine.remove(created["Id"])
        if isinstance(error, EngineRefused | EngineUnavailable | OSError):
            raise not_started(error, spec) from None
        raise
    return Box(
        id=created["Id"], name=name, spec=spec, connection=connection, parts=parts, python=python, not_held=lacking
    )


def fits(box: Box, spec: ContainerSpec, asked: frozenset[str]) -> bool:
    """Whether a waiting container has the limits of a job already. asked: those that must be held."""
    return update_fields(spec) == update_fields(box.spec) and asked.isdisjoint(box.not_held)


def hand_out(engine: Engine, box: Box, spec: ContainerSpec, *, profile: Profile, asked: frozenset[str]) -> Box:
    """A waiting container under the limits of its job. Raises `WorkerNotStarted`; the box is closed then."""
    if fits(box, spec, asked):
        return replace(box, spec=spec)
    fields = update_fields(spec)
    try:
        engine.ask(
            lambda client: client._result(client._post_json(client._url("/containers/{0}/update", box.id), fields))
        )
        lacking = audit(engine, box.id, spec, profile=profile, asked=asked, warnings=())
    except BaseException as error:
        close_box(engine, box)
        if isinstance(error, EngineRefused | EngineUnavailable):
            raise not_started(error, spec) from None
        raise
    return replace(box, spec=spec, not_held=lacking)


def close_box(engine: Engine, box: Box) -> None:
    """End and remove a container that nobody uses."""
    _end(box.connection)
    engine.remove(box.id)


def _end(connection: socket.socket) -> None:
    hang_up(connection)
    connection.close()


def audit(
    engine: Engine, container: str, spec: ContainerSpec, *, profile: Profile, asked: frozenset[str], warnings: Any
) -> tuple[str, ...]:
    """Compare what `inspect` tells with what was asked; the limits that only the profile wanted and that are not held.

    Raises `BoxRefused` for anything else.
    """
    found = engine.ask(lambda client: client.inspect_container(container))
    lacking: set[str] = set()
    for field, wanted, there in differences(spec.config, found):
        limit = _LIMIT_FIELDS.get(field, "")
        if limit and limit not in asked and profile is not Profile.UNTRUSTED:
            lacking.add(limit)
            continue
        raise BoxRefused(
            f"The engine did not apply {field}={_shown(wanted)} (it reports {_shown(there)}). Profile "
            f"{profile.value!r} requires it, so the container was removed unstarted. [NT-D03]"
        )
    if warnings and profile is Profile.UNTRUSTED:
        raise BoxRefused(
            f"The engine warns: {'; '.join(map(str, warnings))}. Profile 'untrusted' allows none, so the container "
            "was removed unstarted. [NT-D03]"
        )
    return tuple(sorted(lacking))


def _shown(value: Any) -> str:
    whole = repr(value)
    return whole if len(whole) <= _MOST_SHOWN else f"{whole[:_MOST_SHOWN]} …"


def _create(engine: Engine, spec: ContainerSpec, name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    config = {**spec.config, "Labels": dict(labels)}
    try:
        return engine.create(config, name)
    except EngineRefused as error:
        raise not_started(error, spec) from None
    except EngineUnavailable as error:
        # the reply may be lost and the container be there: its name tells
        try:
            found = engine.ask(lambda client: client.inspect_container(name))
        except (EngineRefused, EngineUnavailable):
            engine.left.add(name, unsure=True)
            raise WorkerNotStarted(str(error)) from None
        if found["Config"]["Labels"] != {**found["Config"]["Labels"], **labels}:
            raise WorkerNotStarted(str(error)) from None
        return {"Id": found["Id"], "Warnings": ["its answer was lost, and with it what it warned of"]}


def _attach(client: APIClient, container: str) -> socket.socket:
    """The container's streams as a socket of our own, past the answer's head."""
    line = Line(
        client,
        "POST",
        f"/containers/{container}/attach",
        params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1},
        headers={"Connection": "Upgrade", "Upgrade": "tcp"},
        seconds=LONG_SECONDS,
    )
    try:
        line.open()
        if isinstance(line.stream, socket.socket):
            return line.detach()
    finally:
        line.end()
    raise EngineUnavailable(
        f"{client.base_url} gives no stream that can be read natively", "Use a unix:// or tcp:// engine"
    )


@dataclass(frozen=True)
class _HangUp:
    """What ends the wait for a worker."""

    connection: socket.socket

    def close(self) -> None:
        hang_up(self.connection)


def _go_on(stop: CallOff) -> None:
    if stop.is_set():
        raise WorkerNotStarted(CALLED_OFF)
