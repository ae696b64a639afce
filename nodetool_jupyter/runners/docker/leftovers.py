"""What containers leave in the engine: found by label, removed when its owner is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any

from ...errors import InvalidRequest
from ..base import Swept
from .engine import CHECK_SECONDS, LONG_SECONDS, SHORT_SECONDS, Engine, EngineRefused, EngineUnavailable

OWNER_LABEL = "nodetool.owner"
BUILT_LABEL = "nodetool.built"
Labels = Mapping[str, str]


def own_network(engine: Engine, name: str, labels: Labels) -> str:
    """A bridge of this owner's, on which its containers don't see each other; made when missing."""
    found = engine.ask(lambda client: client.networks(names=[f"^{name}$"]))
    if not found:
        options = {"com.docker.network.bridge.enable_icc": "false"}
        engine.ask(
            lambda client: client.create_network(name, driver="bridge", options=options, labels=dict(labels)),
            seconds=LONG_SECONDS,
        )
    return name


def named(engine: Engine, network: str) -> str:
    """A network as the engine names it, but for this owner's own; see `foreign_network`."""
    return network if network in ("none", "bridge") else foreign_network(engine, network)


def foreign_network(engine: Engine, name: str) -> str:
    """The name of a network that somebody else made, which may be given by its id.

    One that isn't there is left for the engine to tell. Raises `InvalidRequest` for the engine's own ones.
    """
    try:
        found = engine.ask(lambda client: client.inspect_network(name), seconds=CHECK_SECONDS)
    except EngineRefused:
        return name
    if found["Driver"] in ("host", "null") or found["Name"] == "bridge":
        raise InvalidRequest(
            f"--network {name!r} is refused: it is the engine's own network {found['Name']!r}. "
            "Take none, bridge, or the name of a network that you made. Nothing was started."
        ).about("--network")
    return str(found["Name"])


def owned_by(owner: str) -> Callable[[Labels], bool]:
    """Whether labels tell of this owner."""
    return lambda labels: labels.get(OWNER_LABEL) == owner


def remove_leftovers(engine: Engine, gone: Callable[[Labels], bool]) -> Swept:
    """Remove containers, then networks and volumes, whose labels tell of an owner that is gone.

    Never touches what has no label of ours. Blocks. Raises `EngineUnavailable`, `EngineRefused`.
    """
    removed: list[str] = []
    left: list[str] = []
    for what, labels, remove in (*_containers(engine), *_networks(engine), *_volumes(engine)):
        if not gone(labels):
            continue
        try:
            engine.ask(remove, seconds=LONG_SECONDS)
            removed.append(what)
        except EngineRefused as error:
            if error.status != 404:  # somebody else was first
                left.append(f"{what}: {error}")
    return Swept(tuple(removed), tuple(left))


def remove_built(engine: Engine, before: float, *, owner: str, free: Callable[[str], object]) -> Swept:
    """Remove the images that were built for jobs before a time, in seconds since 1970, unless a container uses them.

    owner: whose containers are this kernel's. free: gives up those of it that wait with an image, by its id. Blocks.
    Raises as `remove_leftovers`.
    """
    removed: list[str] = []
    left: list[str] = []
    for one in engine.ask(lambda client: client.images(filters={"label": BUILT_LABEL})):
        if one["Created"] >= before:
            continue
        what = f"image {(one['RepoTags'] or [one['Id'][7:19]])[0]}"
        free(one["Id"])
        if why := _kept(engine, one["Id"], owner):
            left.append(f"{what}: {why}")
        else:
            removed.append(what)
    return Swept(tuple(removed), tuple(left))


def _kept(engine: Engine, image: str, owner: str) -> str:
    """Why an image is still there; "" when it is gone. A container of a job that has ended is waited for."""
    tries = count(1)
    while True:
        try:
            engine.ask(_call("remove_image", image), seconds=LONG_SECONDS)
        except EngineRefused as error:
            if error.status != 409:
                return "" if error.status == 404 else str(error)
            users = engine.ask(lambda client: client.containers(all=True, filters={"ancestor": image}))
            ending = [one for one in users if one["Labels"].get(OWNER_LABEL) == owner and one["State"] in _ENDED]
            if not ending or next(tries) > _TRIES or not all(_goes(engine, one["Id"]) for one in ending):
                return _in_use(users, owner) or str(error)
        else:
            return ""


def _goes(engine: Engine, container: str) -> bool:
    """Whether one of our own that has ended is gone; it is removed a moment after its job's end."""
    try:
        engine.ask(lambda client: client.wait(container, condition="removed", timeout=SHORT_SECONDS))
    except EngineRefused as error:
        return error.status == 404
    except EngineUnavailable:
        return False
    return True


def _in_use(users: list[dict[str, Any]], owner: str) -> str:
    if not users:
        return ""
    whose = [one["Labels"].get(OWNER_LABEL, "") for one in users]
    if owner in whose:
        return "a job of this kernel uses it. Prune again when that has ended."
    if any(whose):
        return "a container of another kernel uses it, or waits with it. Prune again when that kernel has ended."
    names = ", ".join(_name(one) for one in users)
    return f"it is used by {names}, which no kernel made. Remove that first."


_Removable = tuple[str, Labels, Callable[[Any], object]]
_TRIES = 5
_ENDED = ("exited", "dead", "removing")
_FILTERS = {"label": OWNER_LABEL}


def _containers(engine: Engine) -> Iterator[_Removable]:
    for one in engine.ask(lambda client: client.containers(all=True, filters=_FILTERS)):
        yield f"container {_name(one)}", one["Labels"], _call("remove_container", one["Id"], v=True, force=True)


def _networks(engine: Engine) -> Iterator[_Removable]:
    for one in engine.ask(lambda client: client.networks(filters=_FILTERS)):
        yield f"network {one['Name']}", one["Labels"] or {}, _call("remove_network", one["Id"])


def _volumes(engine: Engine) -> Iterator[_Removable]:
    for one in engine.ask(lambda client: client.volumes(filters=_FILTERS))["Volumes"] or ():
        yield f"volume {one['Name']}", one["Labels"] or {}, _call("remove_volume", one["Name"])


def _name(container: Mapping[str, Any]) -> str:
    return str(container["Names"][0].lstrip("/") if container["Names"] else container["Id"][:12])


def _call(method: str, name: str, **options: bool) -> Callable[[Any], object]:
    return lambda client: getattr(client, method)(name, **options)
