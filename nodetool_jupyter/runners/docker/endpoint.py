"""Where the engine is, as the environment says it; what can't be meant is told in one sentence before anybody asks."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

CONFIGURED = ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")
SOCKET = "/var/run/docker.sock"
_MARKUP = re.compile(r"<[^>]*>")
_MOST_SAID = 300
_FILES = ("ca.pem", "cert.pem", "key.pem")


class NoEndpoint(Exception):
    """The environment names no engine: why, and what to do."""

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(why)
        self.remedy = remedy


@dataclass(frozen=True)
class Endpoint:
    """`url`: unix:///PATH or tcp://HOST:PORT, or what somebody wrote instead. `cert_path`: "" is no TLS."""

    url: str
    cert_path: str = ""
    verify: bool = False

    @property
    def socket(self) -> str:
        """The path of its socket on this machine, "" for an engine elsewhere."""
        return self.url.removeprefix("unix://") if self.url.startswith("unix://") else ""

    def options(self) -> dict[str, Any]:
        """For the SDK's client. Raises `NoEndpoint`."""
        if self.socket:
            return {"base_url": self.url}
        _check_tcp(self.url)
        if not self.cert_path:
            return {"base_url": self.url}
        from docker.tls import TLSConfig

        ca, cert, key = (os.path.join(self.cert_path, name) for name in _FILES)
        missing = [path for path in ((ca,) * self.verify + (cert, key)) if not os.path.isfile(path)]
        if missing:
            asked = "DOCKER_TLS_VERIFY" if self.verify else "DOCKER_CERT_PATH"
            raise NoEndpoint(
                f"{asked} is set, and there is no {missing[0]}",
                f"Put {', '.join(_FILES)} into one folder and set DOCKER_CERT_PATH to it, or unset {asked}",
            )
        return {"base_url": self.url, "tls": TLSConfig(client_cert=(cert, key), ca_cert=ca, verify=self.verify)}


def endpoint(environ: Mapping[str, str]) -> Endpoint:
    """As `docker` reads it: what is empty is not set, and a socket has no TLS. Raises nothing."""
    host, verify, folder = (environ.get(name, "").strip() for name in CONFIGURED)
    if host in ("", "unix://"):
        host = f"unix://{SOCKET}"
    if host.startswith("unix://") or not (verify or folder):
        return Endpoint(host)
    return Endpoint(host, folder or os.path.join(os.path.expanduser("~"), ".docker"), bool(verify))


def _check_tcp(url: str) -> None:
    if url.startswith("ssh://"):
        raise NoEndpoint(
            "an engine over ssh:// gives no stream that can be read in time",
            "Have it listen on tcp:// with TLS; or forward it to a port, which every user of this machine can then use "
            "(ssh -nNT -L 127.0.0.1:2375:/var/run/docker.sock HOST), and set DOCKER_HOST=tcp://127.0.0.1:2375",
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = urlsplit("")
    if parts.username or parts.password:
        raise NoEndpoint("DOCKER_HOST has a user or a password in it, which no engine takes", "Leave them out")
    if parts.scheme != "tcp" or not host or parts.query or parts.fragment:
        raise NoEndpoint(f"DOCKER_HOST={url!r} names no engine", "Write unix:///PATH or tcp://HOST:PORT")
    if not port:
        raise NoEndpoint(f"DOCKER_HOST={url!r} names no port", "Add it: 2376 is usual with TLS, 2375 without")


def number_in(error: BaseException) -> int:
    """The system's error number at the bottom of what the SDK raised; 0 for none."""
    found = (one.errno for one in _chain(error) if isinstance(one, OSError) and not isinstance(one, ssl.SSLError))
    return next((number for number in found if isinstance(number, int) and number), 0)


def why(error: BaseException) -> str:
    """What keeps an engine from answering, in few words."""
    from docker.errors import APIError

    for one in _chain(error):
        if isinstance(one, ssl.SSLCertVerificationError):
            return f"its certificate can't be trusted ({one.verify_message}). See ca.pem in DOCKER_CERT_PATH"
        if isinstance(one, ssl.SSLError):
            return f"it and DOCKER_CERT_PATH's files don't agree on TLS ({one.reason or 'no reason is given'})"
        if isinstance(one, APIError) and "HTTPS server" in str(one):
            return "it speaks TLS. Set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH to the folder of its certificates"
        if isinstance(one, socket.gaierror):
            return "there is no such host"
        if isinstance(one, APIError | ValueError) and not isinstance(one, OSError):
            return "what answers there is something else"
    known = {errno.ENOENT: "there is no such socket", errno.ECONNREFUSED: "connection refused"}
    words = str(error).rpartition(": ")[2].strip("()'\" ")
    return known.get(number_in(error)) or words or type(error).__name__


def answer_in(error: BaseException) -> tuple[int, str] | None:
    """Status and words of an answer that was no engine's; `None` where none came, or one that `why` knows."""
    from docker.errors import APIError

    found = (one for one in _chain(error) if isinstance(one, APIError) and "HTTPS server" not in str(one))
    return next(((one.response.status_code, in_words(str(one.explanation or ""))) for one in found), None)


def in_words(text: str) -> str:
    """What an engine says, or a proxy before it, as part of a sentence: on one line, without a page's markup."""
    words = " ".join(_MARKUP.sub(" ", text).split()).rstrip(".")
    return words if len(words) <= _MOST_SAID else f"{words[:_MOST_SAID]} …"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and all that it came from."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        found = waiting.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        waiting += [found.__cause__, found.__context__, *(a for a in found.args if isinstance(a, BaseException))]
