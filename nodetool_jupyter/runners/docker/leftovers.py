"""What containers leave in the engine: found by label, removed when its owner is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...errors import InvalidRequest
from ..base import Swept
from .engine import CHECK_SECONDS, LONG_SECONDS, Engine, EngineRefused

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


def remove_leftovers(engine: Engine, gone: Callable[[Labels], bool], *, built_before: float = 0.0) -> Swept:
    """Remove containers, then networks and volumes, whose labels tell of an owner that is gone.

    Images that were built for jobs before `built_before`, in seconds since 1970, go as well, unless a container uses
    them. Never touches what has no label of ours. Blocks. Raises `EngineUnavailable`, `EngineRefused`.
    """
    found = [
        (what, remove)
        for what, labels, remove in (*_containers(engine), *_networks(engine), *_volumes(engine))
        if gone(labels)
    ]
    found += _images(engine, built_before) if built_before else []
    removed: list[str] = []
    left: list[str] = []
    for what, remove in found:
        try:
            engine.ask(remove, seconds=LONG_SECONDS)
            removed.append(what)
        except EngineRefused as error:
            if error.status != 404:  # somebody else was first
                left.append(f"{what}: {error}")
    return Swept(tuple(removed), tuple(left))


_Removable = tuple[str, Labels, Callable[[Any], object]]
_FILTERS = {"label": OWNER_LABEL}


def _containers(engine: Engine) -> Iterator[_Removable]:
    for one in engine.ask(lambda client: client.containers(all=True, filters=_FILTERS)):
        name = one["Names"][0].lstrip("/") if one["Names"] else one["Id"][:12]
        yield f"container {name}", one["Labels"], _call("remove_container", one["Id"], v=True, force=True)


def _networks(engine: Engine) -> Iterator[_Removable]:
    for one in engine.ask(lambda client: client.networks(filters=_FILTERS)):
        yield f"network {one['Name']}", one["Labels"] or {}, _call("remove_network", one["Id"])


def _volumes(engine: Engine) -> Iterator[_Removable]:
    for one in engine.ask(lambda client: client.volumes(filters=_FILTERS))["Volumes"] or ():
        yield f"volume {one['Name']}", one["Labels"] or {}, _call("remove_volume", one["Name"])


def _images(engine: Engine, built_before: float) -> list[tuple[str, Callable[[Any], object]]]:
    built = engine.ask(lambda client: client.images(filters={"label": BUILT_LABEL}))
    return [
        (f"image {(one['RepoTags'] or [one['Id'][7:19]])[0]}", _call("remove_image", one["Id"]))
        for one in built
        if one["Created"] < built_before
    ]


def _call(method: str, name: str, **options: bool) -> Callable[[Any], object]:
    return lambda client: getattr(client, method)(name, **options)
