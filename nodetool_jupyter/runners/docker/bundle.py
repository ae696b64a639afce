"""What enters a container: a loader as an argument, and an archive with the worker over stdin."""

from __future__ import annotations

import hashlib
import importlib.util
import marshal
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ... import worker

_PACKAGE = Path(worker.__file__).parent.parent
_HOST_ONLY = frozenset(
    [
        "archive",
        "boot",
        "census",
        "cgroups",
        "control",
        "folders",
        "leaks",
        "start",
        "supervised",
        "supervisor",
        "tree",
        "warm",
        "zygote",
    ]
)
_FOLDER = f"/{_PACKAGE.name}"
"""Where frames are ours; no such folder is there."""
_OLD_FORMAT = 2  # of `marshal`: the same in every version

_PROGRAM = """\
import marshal,os,sys
if sys.version_info<(3,11)or sys.implementation.name!='cpython':
 sys.exit('it is %s %s'%(sys.implementation.name,sys.version.split()[0]))
def read(n):
 b=bytearray()
 while len(b)<n:
  d=os.read(0,min(65536,n-len(b)))
  if not d:os._exit(0)
  b+=d
 return b
from _frozen_importlib_external import MAGIC_NUMBER as mine
source,code,*modules=marshal.loads(read(int.from_bytes(read(4),'big')))
exec(marshal.loads(code)if modules[0]==mine else compile(source,'/nodetool_jupyter/worker/archive.py','exec',0,True))
install(*modules)
from nodetool_jupyter.worker.container import main
main(sys.argv[1])
"""
# under this name its frames are left out where ours are
LOADER = f"exec(compile({_PROGRAM!r}, '{_FOLDER}/worker/loader', 'exec'))"


class Bundle(NamedTuple):
    """The bytes to send first, length in front, and the hash of what they hold."""

    data: bytes
    digest: str


@lru_cache(maxsize=1)
def bundle() -> Bundle:
    """The worker, `cloudpickle` and the in-job helpers, as this Python's byte code and as source for any other's.

    Most of it a connection takes before anybody reads it.
    """
    sources = dict(_sources())
    compiled = {
        # each packed by itself: most jobs import few of them
        name: (file, package, zlib.compress(marshal.dumps(compile(code, file, "exec", dont_inherit=True)), 9))
        for name, (file, package, code) in sources.items()
    }
    archive = (_PACKAGE / "worker" / "archive.py").read_bytes()
    code = marshal.dumps(compile(archive, f"{_FOLDER}/worker/archive.py", "exec", dont_inherit=True))
    packed = marshal.dumps(compiled, _OLD_FORMAT), zlib.compress(marshal.dumps(sources, _OLD_FORMAT), 9)
    parts = (archive, code, importlib.util.MAGIC_NUMBER, *packed)
    data = marshal.dumps(parts, _OLD_FORMAT)
    return Bundle(len(data).to_bytes(4, "big") + data, hashlib.sha256(data).hexdigest())


def _sources() -> Iterator[tuple[str, tuple[str, bool, bytes]]]:
    """By the name of the module: the name of its file in tracebacks, whether it is a package, its text."""
    package = _PACKAGE.name
    for path in (_PACKAGE / "__init__.py", _PACKAGE / "errors.py"):
        yield _entry(package, path, _FOLDER)
    for path in sorted((_PACKAGE / "worker").glob("*.py")):
        if path.stem not in _HOST_ONLY:
            yield _entry(f"{package}.worker", path, f"{_FOLDER}/worker")
    import cloudpickle  # type: ignore[import-untyped]  # it has no types

    for path in sorted(Path(cloudpickle.__file__).parent.glob("*.py")):
        yield _entry("cloudpickle", path, "/cloudpickle")


def _entry(package: str, path: Path, folder: str) -> tuple[str, tuple[str, bool, bytes]]:
    is_package = path.stem == "__init__"
    name = package if is_package else f"{package}.{path.stem}"
    return name, (f"{folder}/{path.name}", is_package, path.read_bytes())
