"""What containers leave in the engine: found by label, removed when its owner is gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .engine import LONG_SECONDS, Engine, EngineRefused, EngineUnavailable

OWNER_LABEL = "nodetool.owner"
RECORD_LABEL = "nodetool.record"
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


def remove_leftovers(engine: Engine, gone: Callable[[Labels], bool]) -> list[str]:
    """Remove containers, then networks and volumes, whose labels tell of an owner that is gone; what was removed.

    Never touches what has no label of ours. Blocks. Raises `EngineUnavailable`.
    """
    filters = {"label": OWNER_LABEL}
    removed: list[str] = []
    for container in engine.ask(lambda client: client.containers(all=True, filters=filters)):
        if gone(container["Labels"]) and _removed(
            engine, lambda client, id_=container["Id"]: client.remove_container(id_, v=True, force=True)
        ):
            removed.append(
                f"container {container['Names'][0].lstrip('/') if container['Names'] else container['Id'][:12]}"
            )
    for network in engine.ask(lambda client: client.networks(filters=filters)):
        if gone(network["Labels"] or {}) and _removed(
            engine, lambda client, id_=network["Id"]: client.remove_network(id_)
        ):
            removed.append(f"network {network['Name']}")
    for volume in engine.ask(lambda client: client.volumes(filters=filters))["Volumes"] or ():
        if gone(volume["Labels"] or {}) and _removed(
            engine, lambda client, name=volume["Name"]: client.remove_volume(name)
        ):
            removed.append(f"volume {volume['Name']}")
    return removed


def _removed(engine: Engine, call: Callable[..., object]) -> bool:
    try:
        engine.ask(call, seconds=LONG_SECONDS)
    except (EngineRefused, EngineUnavailable):  # somebody else was first, or it is in use; the next sweep sees
        return False
    return True
