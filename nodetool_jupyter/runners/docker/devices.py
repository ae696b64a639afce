"""What the names of GPUs mean: a device is one, whatever it is called, and a part is apart from the whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

WHOLE_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_KINDS = {"index", "instance", "uuid"}
_DIGITS = re.compile(r"[0-9]+")


class Device(NamedTuple):
    """One that was named. card: its number, else its UUID, "" where the name doesn't tell.

    part: "" for the whole. kind: in which of three ways the part is named; nobody can hold them against each other.
    """

    card: str
    part: str = ""
    kind: str = ""


class Locks(NamedTuple):
    """What keeps devices for one job. free: what must have no lock at the time; nothing is held there."""

    exclusive: frozenset[str]
    shared: frozenset[str]
    free: frozenset[str]


def device(name: str, there: Mapping[str, str]) -> Device:
    """What a name means: `0`, `0:1`, `GPU-<uuid>`, `MIG-GPU-<uuid>/1/0`, `MIG-<uuid>`. there: number to UUID."""
    plain = name.casefold()
    if plain.startswith("mig-") and not plain.startswith("mig-gpu-"):
        return Device("", plain, "uuid")
    if plain.startswith(("mig-gpu-", "gpu-")):
        uuid, _, part = plain.removeprefix("mig-").partition("/")
        card = next((number for number, known in there.items() if known.casefold() == uuid), uuid)
        return Device(card, part, "instance" if part else "")
    card, _, part = plain.partition(":")
    return Device(_number(card), _number(part), "index" if part else "")


def unknown(names: Iterable[str], there: Mapping[str, str]) -> list[str]:
    """The names of which no GPU is there, as far as that can be told."""
    found = {name: name.partition(":")[0] if name[0].isdigit() else device(name, there).card for name in names}
    return [name for name, card in found.items() if card and not _may_be(card, there)]


def locks(names: Iterable[str], there: Mapping[str, str]) -> Locks:
    """A whole device goes with nothing else; its parts go with each other where they are named alike."""
    found = [device(name, there) for name in names]
    exclusive = {f"gpu-{one.card}" for one in found if not one.part}
    exclusive |= {f"gpu-{one.card}-{one.kind}-{one.part}" for one in found if one.part}
    parts = {(card, one.kind) for one in found if one.part for card in _cards(one, there)}
    shared = {f"gpu-{card}" for card, _ in parts} | {f"gpu-{card}-by-{kind}" for card, kind in parts}
    free = {f"gpu-{card}-by-{kind}" for card, _ in parts for kind in _KINDS if (card, kind) not in parts}
    return Locks(frozenset(exclusive), frozenset(shared - exclusive), frozenset(free))


def _cards(one: Device, there: Mapping[str, str]) -> Iterator[str]:
    """Those of which it may be a part."""
    yield from (one.card,) if one.card else there


def _may_be(card: str, there: Mapping[str, str]) -> bool:
    """A UUID may be one that the driver did not tell."""
    return card in there or (not _DIGITS.fullmatch(card) and not all(there.values()))


def _number(text: str) -> str:
    return text.lstrip("0") or text[:1]
