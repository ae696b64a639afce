"""What a job's container is asked to be: the options of `docker run` that are offered, as people write them."""

from __future__ import annotations

import csv
import posixpath
import re
import sys
from collections.abc import Iterable

from msgspec import Struct

from .errors import InvalidRequest
from .quantities import parse_size

PULLS = ("missing", "always", "never")
WORKDIR = "/job"
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:[A-Za-z0-9.-]+(?::[0-9]+)?/)?{_PART}(?:/{_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_USER = re.compile(r"(?:[0-9]+|[a-z_][a-z0-9_-]*)(?::(?:[0-9]+|[a-z_][a-z0-9_-]*))?")
MOST_ID = 2**31 - 1
_DEVICE = re.compile(r"[0-9]+(?::[0-9]+)?|(?:GPU|MIG)-[A-Za-z0-9-]+(?:/[0-9]+/[0-9]+)?")  # a number, a UUID, a part
_NOTHING = "Nothing was started."
_SYSTEM = ("proc", "sys", "dev")
_REQUIREMENT = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"  # a name
    r"(\s*\[[A-Za-z0-9._,\s-]*\])?"  # its extras
    r"\s*\(?((===|==|~=|!=|<=|>=|<|>)\s*[A-Za-z0-9.*+!_-]+\s*,?\s*)*\)?"  # its versions
    r"\s*(;[^@]*?)?"  # when it is needed
    r"(\s+--hash=[a-z0-9]+:[0-9a-f]+)*"
)
_TMPFS_WORDS = {"ro", "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev"}
_TMPFS_VALUES = {"size": re.compile(r".+"), "mode": re.compile(r"[0-7]{3,4}"),
                 "uid": re.compile(r"[0-9]{1,9}"), "gid": re.compile(r"[0-9]{1,9}")}  # fmt: skip


class Bind(Struct, frozen=True):
    """A folder or file of the host, shown in the container at `target`."""

    source: str
    target: str
    read_only: bool = False


class ContainerOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a container differs from the default one.

    image: "" for the slim Python of this interpreter's minor version. pinned: the id of the image that a job
    ran with, for a rerun. pull: "" for what the profile says. network: "none", "bridge" (a network of this kernel's
    own) or a network's name. user: "" for one that is not root. gpus: "", "all", a count, or "device=" and ids with
    commas. tmpfs: path to options. requirements: lines as `pip` reads them, for an image with them installed.
    """

    image: str = ""
    pinned: str = ""
    pull: str = ""
    network: str = "none"
    user: str = ""
    gpus: str = ""
    gpus_shared: bool = False
    binds: tuple[Bind, ...] = ()
    tmpfs: dict[str, str] = {}
    read_only: bool = False
    workdir: str = WORKDIR
    collect: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()


def default_image() -> str:
    """The image for jobs that name none: its Python is of this interpreter's minor version."""
    return f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"


def is_pinned(image: str) -> bool:
    """Whether the name always means the same image, or at least says which one is meant."""
    if "@sha256:" in image:
        return True
    tag = image.rpartition("/")[2].partition(":")[2]
    return tag not in ("", "latest")


def parse_image(text: str, what: str) -> str:
    """A reference to an image. Raises `InvalidRequest`."""
    if not _IMAGE.fullmatch(text):
        raise InvalidRequest(f"{what} {text!r} is no image's name. Write NAME:TAG, as in python:3.12-slim. {_NOTHING}")
    return text


def parse_pull(text: str, what: str) -> str:
    """When to fetch the image. Raises `InvalidRequest`."""
    if text not in PULLS:
        raise InvalidRequest(f"{what} {text!r} is not one of {', '.join(PULLS)}. {_NOTHING}")
    return text


def parse_network(text: str, what: str) -> str:
    """A network. Raises `InvalidRequest` for those that share one with the host or another container."""
    if text in ("host", "default") or text.startswith("container:"):
        raise InvalidRequest(
            f"{what} {text!r} is refused: the job would share a network that is not its own. "
            f"Take none, bridge, or the name of a network. {_NOTHING}"
        )
    if not _NAME.fullmatch(text):
        raise InvalidRequest(f"{what} {text!r} is no network's name. Take none, bridge, or a name. {_NOTHING}")
    return text


def parse_user(text: str, what: str) -> str:
    """`UID[:GID]` or names. Raises `InvalidRequest`."""
    if text == "none":
        raise InvalidRequest(
            f"{what} 'none' is no user. Write UID or UID:GID, as in 65534:65534, which is nobody. {_NOTHING}"
        )
    if not _USER.fullmatch(text) or any(part.isdigit() and int(part) > MOST_ID for part in text.split(":")):
        raise InvalidRequest(f"{what} {text!r} is no user. Write UID or UID:GID, as in 1000:1000. {_NOTHING}")
    return text


def parse_gpus(text: str, what: str) -> str:
    """`all`, a count, `none`, or `"device=0,2"`; as `ContainerOptions.gpus` has it. Raises `InvalidRequest`."""
    found = _gpus(text)
    if found is None:
        raise InvalidRequest(
            f"{what} {text!r} can't be read. Write all, a number, none, or '\"device=0,2\"'. {_NOTHING}"
        )
    return found


def parse_gpu_devices(text: str, what: str) -> str:
    """As `parse_gpus`, where plain numbers are ids, not a count: `0`, `0,2`. Raises `InvalidRequest`."""
    plain = text.strip()
    found = _gpus(plain if plain in ("", "all", "none") or "=" in plain else f'"device={plain}"')
    if found is None:
        raise InvalidRequest(f"{what} {text!r} can't be read. Write all, none, or ids of GPUs: 0,2. {_NOTHING}")
    return found


def _gpus(text: str) -> str | None:
    """As `docker run` takes it: one field of CSV, in quotes where it has commas of its own."""
    try:
        fields = next(csv.reader([text.strip()]), [])
    except csv.Error:
        return None
    words = ",".join(fields)
    if words in ("", "none", "0"):
        return ""
    if words == "all" or (words.isascii() and words.isdigit()):
        return words.lstrip("0")
    ids = words.removeprefix("device=").split(",")
    if words.startswith("device=") and all(_DEVICE.fullmatch(one) for one in ids):
        return f"device={','.join(dict.fromkeys(ids))}"
    return None


def gpu_ids(gpus: str) -> tuple[str, ...]:
    """The devices that are named; empty for `all` and a count."""
    return tuple(gpus.removeprefix("device=").split(",")) if gpus.startswith("device=") else ()


def parse_bind(text: str, what: str) -> Bind:
    """`SRC:DST[:ro]`, both as paths. Raises `InvalidRequest`. Whether the source may be shown is asked elsewhere."""
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not target:
        raise InvalidRequest(
            f"{what} {text!r} names no place in the container. Write SRC:DST or SRC:DST:ro. {_NOTHING}"
        )
    if not source.startswith(("/", ".", "~")):
        raise InvalidRequest(
            f"{what} {text!r}: {source!r} is not a path. Write a folder of this machine, "
            f"as in ./{source or 'data'}:{target}. "
            f"{_NOTHING}"
        )
    if mode not in ("", "ro", "rw"):
        raise InvalidRequest(f"{what} {text!r}: mode {mode!r} is not offered. Write ro, rw or nothing. {_NOTHING}")
    return Bind(source, _inside(target, text, what), mode == "ro")


def parse_tmpfs(text: str, what: str) -> tuple[str, str]:
    """`DST[:options]` with a size. Raises `InvalidRequest`."""
    target, _, options = text.partition(":")
    words = [word for word in options.split(",") if word]
    names = {word.partition("=")[0] for word in words}
    if "size" not in names:
        raise InvalidRequest(
            f"{what} {text!r} has no size, and could fill the memory. Write {target}:size=64m. {_NOTHING}"
        )
    found = [_tmpfs_option(word, text, what) for word in words]
    if names.isdisjoint({"mode", "uid"}):
        found.append("mode=1777")  # else it has the mode of the folder that it covers
    return _inside(target, text, what), ",".join(found)


def _tmpfs_option(word: str, text: str, what: str) -> str:
    name, given, value = word.partition("=")
    known = _TMPFS_VALUES.get(name)
    if known is not None and not value:
        raise InvalidRequest(f"{what} {text!r}: {name} has no value. Write it as in size=64m. {_NOTHING}")
    if known is not None and not known.fullmatch(value):
        raise InvalidRequest(f"{what} {text!r}: {word!r} can't be read. Write numbers, mode= in octal. {_NOTHING}")
    if known is None and (given or word not in _TMPFS_WORDS):
        raise InvalidRequest(f"{what} {text!r}: option {word!r} is not known. Write size=64m, mode=, uid=, gid=, "
                             f"exec or noexec. {_NOTHING}")  # fmt: skip
    return f"size={parse_size(value, f'{what} {text!r}: size')}" if name == "size" else word


def parse_collect(text: str, what: str) -> str:
    """A pattern of files to bring back. Raises `InvalidRequest`."""
    if not text.strip() or "\0" in text:
        raise InvalidRequest(f"{what} {text!r} is no pattern of files. Write one as in 'out/*.csv'. {_NOTHING}")
    return text


def parse_workdir(text: str, what: str) -> str:
    """Where the code runs. Raises `InvalidRequest`."""
    path = posixpath.normpath("/" + text.lstrip("/"))
    if not text.startswith("/") or "\0" in text or ".." in text.split("/") or path.split("/")[1] in _SYSTEM:
        raise InvalidRequest(
            f"{what} {text!r} must be an absolute path in the container, and none of the system's own. "
            f"Write {WORKDIR} or the like. {_NOTHING}"
        )
    return path


def parse_requirements(lines: Iterable[str], what: str) -> tuple[str, ...]:
    """Packages by name, with versions, markers and hashes, as a requirements file lists them. Raises `InvalidRequest`.

    Options, addresses and paths are refused: what they name would have to be built, and that runs its code here.
    """
    text = re.sub(r"(^|\s)#.*$", "", "\n".join(lines).replace("\\\n", " "), flags=re.MULTILINE)
    found = tuple(dict.fromkeys(" ".join(line.split()) for line in text.splitlines() if line.strip()))
    for line in found:
        if line.startswith("-"):
            raise InvalidRequest(
                f"{what}: {line!r} is an option of pip, which is not taken here. List packages only. {_NOTHING}"
            )
        if not _REQUIREMENT.fullmatch(line):
            raise InvalidRequest(
                f"{what}: {line!r} is not a package's name with versions, as in numpy>=2. Addresses and paths are not "
                f"taken: only wheels from the index are, and nothing is built here. {_NOTHING}"
            )
    if not found:
        raise InvalidRequest(f"{what} lists no package. Name some, or leave it out. {_NOTHING}")
    return found


def check_options(options: ContainerOptions) -> None:
    """Raise `InvalidRequest` for what no line could say: options come from Python and the store as well."""
    if options.pull:
        parse_pull(options.pull, "--pull")
    parse_network(options.network, "--network")
    parse_workdir(options.workdir, "--workdir")
    for pattern in options.collect:
        parse_collect(pattern, "--collect")
    if options.image:
        parse_image(options.image, "--image")
    if options.user:
        parse_user(options.user, "--user")
    if options.gpus != parse_gpus(options.gpus, "--gpus"):
        raise InvalidRequest(f"--gpus {options.gpus!r} can't be read. Write all, a number, or device=0,2. {_NOTHING}")
    targets = [
        ("-v", bind.target, _inside(bind.target, f"{bind.source}:{bind.target}", "-v")) for bind in options.binds
    ]
    for target, how in options.tmpfs.items():
        targets.append(("--tmpfs", target, parse_tmpfs(f"{target}:{how}", "--tmpfs")[0]))
    _check_targets(targets)


def _check_targets(targets: Iterable[tuple[str, str, str]]) -> None:
    """Each place once, as the engine writes it. targets: option, place as given, place as the engine writes it."""
    seen: dict[str, str] = {}
    for option, given, path in targets:
        if given != path:
            raise InvalidRequest(f"{option}: {given!r} can't be a place in the container. Write {path!r}. {_NOTHING}")
        if path in seen:
            both = option if option == seen[path] else f"{seen[path]} and {option}"
            raise InvalidRequest(
                f"{both}: {path!r} is named twice, and one place can show one thing. Leave one out, or take another "
                f"place for it. {_NOTHING}"
            )
        seen[path] = option


def _inside(target: str, text: str, what: str) -> str:
    path = posixpath.normpath("/" + target.lstrip("/"))
    if not target.startswith("/") or "\0" in target or path == "/" or ".." in target.split("/"):
        raise InvalidRequest(
            f"{what} {text!r}: {target!r} must be an absolute path in the container, and not '/'. {_NOTHING}"
        )
    if path.split("/")[1] in _SYSTEM:
        raise InvalidRequest(
            f"{what} {text!r}: {path!r} is the system's own in the container. Take another. {_NOTHING}"
        )
    return path
