"""Who the names of an image's users are: read by the engine from the image's files, running nothing of it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from ...errors import InvalidRequest
from .engine import LONG_SECONDS, Engine, EngineRefused
from .spec import is_number
from .unstarted import unstarted

if TYPE_CHECKING:
    from docker import APIClient

_MOST_BYTES = 1 << 20
_UID, _GID = 2, 3


class Users:
    """What images say in their `/etc/passwd` and `/etc/group`, which never changes; from any thread."""

    def __init__(self, engine: Engine, labels: Mapping[str, str]) -> None:
        self._engine = engine
        self._labels = labels
        self._known: dict[str, tuple[str, str]] = {}

    def in_numbers(self, image_id: str, user: str) -> str:
        """A user with its names as the image's numbers, `UID:GID`; as it is where the image has no such name.

        The first time that an image is asked for names this blocks for some tenths of a second. Raises
        `EngineUnavailable`.
        """
        if not image_id or all(map(is_number, user.split(":"))) or not user:
            return user
        if image_id not in self._known:
            self._known[image_id] = self._read(image_id)
        return in_numbers(user, *self._known[image_id])

    def asked(self, image_id: str, user: str) -> str:
        """As `in_numbers`, for who was asked for: the engine's own reading of a name could make it root untold.

        Raises `EngineUnavailable`, and `InvalidRequest` where the image doesn't say who that is.
        """
        found = self.in_numbers(image_id, user)
        if user and image_id and not all(map(is_number, found.split(":"))):
            raise InvalidRequest(
                f"The image has no user {user!r} whose number can be read in its /etc/passwd and /etc/group. "
                "Give a number with --user, as in --user 1000:1000. Nothing was started."
            ).about("--user")
        return found

    def _read(self, image_id: str) -> tuple[str, str]:
        try:
            with unstarted(self._engine, image_id, self._labels, "users") as made:
                return self._file(made, "/etc/passwd"), self._file(made, "/etc/group")
        except EngineRefused:
            return "", ""

    def _file(self, container: str, path: str) -> str:
        """The text of a file or of what it is a link to; "" where there is none, or no file of common size."""
        with suppress(EngineRefused, tarfile.TarError):
            return self._engine.ask(lambda client: _text(client, container, path), seconds=LONG_SECONDS)
        return ""


def _text(client: APIClient, container: str, path: str) -> str:
    stream, told = client.get_archive(container, path)
    if target := (told or {}).get("linkTarget"):  # the last of its links, within the container
        for _ in stream:  # what is left unread would keep the connection
            pass
        stream, _ = client.get_archive(container, target)
    packed = bytearray()
    with closing(stream):
        for piece in stream:
            packed += piece
            if len(packed) > _MOST_BYTES:
                return ""
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as archive:
        entry = archive.next()
        file = archive.extractfile(entry) if entry is not None and entry.isfile() else None
        return file.read().decode("utf-8", "replace") if file is not None else ""


def in_numbers(user: str, passwd: str, group: str) -> str:
    """`UID:GID` of a user with names, as these files have them; the user as it is where they don't."""
    uid, _, gid = user.partition(":")
    if not is_number(uid):
        entry = _entry(passwd, uid, _GID)
        if entry is None:
            return user
        uid, gid = entry[_UID], gid or entry[_GID]
    if gid and not is_number(gid):
        entry = _entry(group, gid, _UID)
        if entry is None:
            return user
        gid = entry[_UID]
    found = f"{uid}:{gid or uid}"
    return found if all(map(is_number, found.split(":"))) else user


def _entry(text: str, name: str, last: int) -> list[str] | None:
    """The first line of this name that has fields up to the last one."""
    entries: Iterator[list[str]] = (line.strip().split(":") for line in text.splitlines())
    return next((fields for fields in entries if fields[0] == name and len(fields) > last), None)
