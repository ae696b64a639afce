"""What enters a container: a loader as an argument, and an archive with the worker over stdin."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import marshal
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ... import worker
from ...worker.container import ARCHIVE

_PACKAGE = Path(worker.__file__).parent.parent
_HOST_ONLY = frozenset(
    [
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
_UNCHECKED_HASH = (1).to_bytes(4, "little")
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
_MOUNTED = f"/proc/self/fd/{ARCHIVE}"

_PROGRAM = f"""\
import os,sys
if sys.version_info<(3,11)or sys.implementation.name!='cpython':
 sys.exit('it is %s %s'%(sys.implementation.name,sys.version.split()[0]))
def read(n):
 b=bytearray()
 while len(b)<n:
  d=os.read(0,min(65536,n-len(b)))
  if not d:os._exit(0)
  b+=d
 return b
f=os.memfd_create('nodetool')
os.dup2(f,{ARCHIVE},False)
os.close(f)
b=read(int.from_bytes(read(4),'big'))
while b:b=b[os.write({ARCHIVE},b):]
sys.path.insert(0,'{_MOUNTED}')
from nodetool_jupyter.worker.container import main
main(sys.argv[1])
"""
# under this name its frames are left out where ours are
LOADER = f"exec(compile({_PROGRAM!r}, '/nodetool_jupyter/worker/loader', 'exec'))"


class Bundle(NamedTuple):
    """The bytes to send first, length in front, and the hash of what they hold."""

    data: bytes
    digest: str


@lru_cache(maxsize=1)
def bundle() -> Bundle:
    """The worker, `cloudpickle` and the in-job helpers, as source and as this Python's byte code.

    An interpreter of another version passes over the byte code, which it can tell by its number.
    """
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, source in _sources():
            archive.writestr(zipfile.ZipInfo(name, _LONG_AGO), source)
            archive.writestr(zipfile.ZipInfo(f"{name}c", _LONG_AGO), _byte_code(name, source))
    data = target.getvalue()
    return Bundle(len(data).to_bytes(4, "big") + data, hashlib.sha256(data).hexdigest())


def _sources() -> Iterator[tuple[str, bytes]]:
    name = _PACKAGE.name
    for path in (_PACKAGE / "__init__.py", _PACKAGE / "errors.py"):
        yield f"{name}/{path.name}", path.read_bytes()
    for path in sorted((_PACKAGE / "worker").glob("*.py")):
        if path.stem not in _HOST_ONLY:
            yield f"{name}/worker/{path.name}", path.read_bytes()
    import cloudpickle  # type: ignore[import-untyped]  # it has no types

    for path in sorted(Path(cloudpickle.__file__).parent.glob("*.py")):
        yield f"cloudpickle/{path.name}", path.read_bytes()


def _byte_code(name: str, source: bytes) -> bytes:
    code = compile(source, f"{_MOUNTED}/{name}", "exec", dont_inherit=True)
    mark = importlib.util.source_hash(source)
    return importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH + mark + marshal.dumps(code)
