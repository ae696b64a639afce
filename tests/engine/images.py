"""The image of the tests: a small Debian with its Python 3.11, made here once and kept between runs.

`python -m tests.engine.images` makes it ahead of time.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import docker

from tests.engine.private import remove

SUITE, PYTHON = "bookworm", "3.11"
IMAGE = f"nodetool-test:{SUITE}"
DEFAULT = f"python:{PYTHON}-slim"
"""The runner's default image under a kernel of the same Python."""
VARIANTS = {
    "nodetool-test:volume": 'VOLUME ["/declared"]',
    "nodetool-test:shared": 'VOLUME ["/dev/shm"]',
    "nodetool-test:user": "USER www-data",
    "nodetool-test:workdir": "WORKDIR /srv/work",
}
"""The same files, and one more thing that an image may declare."""
BASE = [
    'CMD ["python3"]',
    "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
]

OTHER_SUITE, OTHER_PYTHON = "trixie", "3.13"
OTHER = f"nodetool-test:{OTHER_SUITE}"
"""With another Python, for the few tests that ask for it."""

_BOOTSTRAP = ["debootstrap", "--variant=minbase", "--include=python3"]
_DROPPED = [
    *("dev/*", "etc/hostname", "etc/resolv.conf", "var/cache/apt/*", "var/cache/debconf/*-old", "var/lib/apt/lists/*"),
    *("var/log/*", "usr/share/doc/*", "usr/share/i18n", "usr/share/info/*", "usr/share/lintian", "usr/share/locale/*"),
    *("usr/share/man/*", "usr/share/zoneinfo/right"),
]


def tarball(suite: str = SUITE) -> Path:
    """An image's files as a tar file, made when it is not kept yet. Runs at the same time make it once."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nodetool_jupyter"
    folder.mkdir(parents=True, exist_ok=True)
    recipe = hashlib.sha256(repr(([*_BOOTSTRAP, suite], _DROPPED, os.uname().machine)).encode()).hexdigest()[:16]
    path = folder / f"test-image-{recipe}.tar"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _make(path, suite)
    return path


def _make(path: Path, suite: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="ntj-image-"))
    try:
        root = folder / "root"
        environ = {**os.environ, "LC_ALL": "C", "DPKG_FORCE": "unsafe-io"}  # a file that is lost is made again
        command = [*_BOOTSTRAP, suite, str(root)]
        made = subprocess.run(command, env=environ, capture_output=True, text=True, errors="replace")
        assert made.returncode == 0, f"debootstrap failed:\n{(made.stdout + made.stderr)[-2000:]}"
        for pattern in _DROPPED:
            for found in root.glob(pattern):
                shutil.rmtree(found) if found.is_dir() and not found.is_symlink() else found.unlink()
        unfinished = path.with_suffix(".part")  # only ever written under the lock
        subprocess.run(["tar", "--numeric-owner", "-C", str(root), "-cf", str(unfinished), "."], check=True)
        unfinished.rename(path)
    finally:
        remove(folder)


def load(client: docker.DockerClient, *, variants: bool) -> None:
    """Import the image into an engine, also under the name of the runner's default image."""
    repository, tag = IMAGE.split(":")
    client.api.import_image(src=str(tarball()), repository=repository, tag=tag, changes=BASE)
    client.api.tag(IMAGE, *DEFAULT.split(":"))
    assert client.images.get(IMAGE), "imported"
    for name, change in VARIANTS.items() if variants else ():
        repository, tag = name.split(":")
        container = client.api.create_container(IMAGE, ["true"])
        client.api.commit(container, repository, tag, changes=[*BASE, change])
        client.api.remove_container(container)


def load_other(client: docker.DockerClient) -> None:
    """Import the image with another Python."""
    repository, tag = OTHER.split(":")
    client.api.import_image(src=str(tarball(OTHER_SUITE)), repository=repository, tag=tag, changes=BASE)


def load_with_python3(client: docker.DockerClient, name: str, script: str) -> None:
    """Make an image that differs in its `python3`: a shell script, which finds the real one as `$REAL`."""
    content = f"#!/bin/sh\nREAL=/usr/bin/python{PYTHON}\n{script}\n".encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("python3")
        entry.size, entry.mode = len(content), 0o755
        archive.addfile(entry, io.BytesIO(content))
    container = client.api.create_container(IMAGE, ["true"])
    client.api.put_archive(container, "/usr/bin", packed.getvalue())
    client.api.commit(container, *name.split(":"), changes=BASE)
    client.api.remove_container(container)


if __name__ == "__main__":
    print(tarball())
