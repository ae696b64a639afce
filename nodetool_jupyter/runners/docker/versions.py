"""Which CUDA, cuDNN and frameworks an image has, and whether this machine's driver is new enough for them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from .engine import Engine, EngineRefused
from .probe import output_of

DRIVER = Path("/proc/driver/nvidia/version")
_CUDA_OF_DRIVER = {
    590: "13.1", 580: "13.0", 575: "12.9", 570: "12.8", 565: "12.7", 560: "12.6", 555: "12.5", 550: "12.4",
    545: "12.3", 535: "12.2", 530: "12.1", 525: "12.0", 520: "11.8", 515: "11.7", 510: "11.6", 495: "11.5",
    470: "11.4", 465: "11.3", 460: "11.2", 455: "11.1", 450: "11.0", 440: "10.2", 418: "10.1", 410: "10.0",
}  # fmt: skip
"""The newest CUDA that a branch of the driver was made for."""
_BUILT_FOR = re.compile(r"\+cu(\d\d)(\d)$")
_FRAMEWORKS = ("torch", "tensorflow", "jax", "jaxlib", "onnxruntime_gpu", "cupy", "comfyui")
_PROGRAM = """\
import glob, json, os, re, sys
found = {"cuda": "", "cudnn": [], "packages": {}}
def read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 16)
    except OSError:
        return ""
text = read("/usr/local/cuda/version.json")
if text:
    found["cuda"] = json.loads(text).get("cuda", {}).get("version", "")
for place in ("/usr/lib/*", "/usr/lib64", "/usr/local/lib", "/usr/local/cuda*/lib64", "/usr/local/cuda*/targets/*/lib"):
    found["cudnn"] += [os.path.basename(path) for path in glob.glob(place + "/libcudnn.so.*")]
for folder in {os.path.realpath(path) for path in sys.path}:
    for path in glob.glob(os.path.join(glob.escape(folder), "*.dist-info")):
        name, _, version = os.path.basename(path)[:-10].partition("-")
        found["packages"][name.lower()] = version
for pattern in ("/*/comfyui_version.py", "/*/*/comfyui_version.py", "/*/*/*/comfyui_version.py"):
    for path in glob.glob(pattern):
        version = re.search(r'__version__ *= *"([^"]+)"', read(path))
        found["packages"]["comfyui"] = version[1] if version else "?"
print(json.dumps(found))
"""


class Software(Struct, frozen=True):
    """What an image has. packages: name as in `dist-info` to version."""

    cuda: str = ""
    cudnn: list[str] = []
    packages: dict[str, str] = {}


class Finding(Struct, frozen=True):
    """One thing in an image. cuda: the version that it was built for, "" where that isn't told."""

    name: str
    version: str
    cuda: str = ""


def look_into(engine: Engine, image_id: str, labels: Mapping[str, str]) -> tuple[Finding, ...]:
    """What an image has, by its environment and files; its own Python lists them, locked in. Blocks.

    Raises `EngineUnavailable`, `EngineRefused`.
    """
    config = engine.ask(lambda client: client.inspect_image(image_id)).get("Config") or {}
    environ = dict(entry.partition("=")[::2] for entry in config.get("Env") or ())
    try:
        said = output_of(engine, image_id, ["python3", "-I", "-c", _PROGRAM], labels)
        software = msgspec.convert(json.loads(said), Software)
    except (EngineRefused, ValueError):  # no Python that could list its files
        software = Software()
    return findings(environ, software)


def findings(environ: Mapping[str, str], software: Software) -> tuple[Finding, ...]:
    """What the image's environment and files tell."""
    cuda = environ.get("CUDA_VERSION") or software.cuda
    libraries = sorted({name.partition(".so.")[2] for name in software.cudnn}, key=len)
    cudnn = environ.get("NV_CUDNN_VERSION") or (libraries[-1] if libraries else "")
    found = [Finding("CUDA", cuda, _minor(cuda))] if cuda else []
    found += [Finding("cuDNN", cudnn)] if cudnn else []
    runtime = next((version for name, version in software.packages.items() if _is_runtime(name)), "")
    for name in _FRAMEWORKS:
        if version := software.packages.get(name, ""):
            suffix = _BUILT_FOR.search(version)
            told = f"{suffix[1]}.{suffix[2]}" if suffix else _minor(runtime) if name == "torch" else ""
            found.append(Finding(name, version, told))
    wheels = [(name, version) for name, version in software.packages.items() if name.startswith("nvidia_cudnn")]
    return (*found, *(Finding(name, version) for name, version in wheels))


def driver_version(path: Path = DRIVER) -> str:
    """The version of this machine's NVIDIA driver; "" without one."""
    try:
        found = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", path.read_text(errors="replace"))
    except OSError:
        return ""
    return found[1] if found else ""


def newest_cuda(driver: str) -> str:
    """The newest CUDA that a driver was made for; "" for one that is older than the table."""
    branch = int(driver.partition(".")[0] or 0)
    return next((cuda for first, cuda in _CUDA_OF_DRIVER.items() if first <= branch), "")


def too_new(cuda: str, driver: str) -> str:
    """Why what was built for this CUDA does not run with the driver, or not wholly; "" when it does."""
    most = newest_cuda(driver)
    if not cuda or not driver or _numbers(cuda) <= _numbers(most):
        return ""
    if cuda.partition(".")[0] == most.partition(".")[0]:
        return (
            f"newer than CUDA {most} of driver {driver}: it runs, but for kernels that are compiled at run time (PTX)"
        )
    major = f"{cuda.partition('.')[0]}."
    branches = [first for first, known in _CUDA_OF_DRIVER.items() if known.startswith(major)]
    newer = f"driver {min(branches)} or newer" if branches else "a newer driver"
    return f"too new for driver {driver}, which goes up to CUDA {most or '9'}: take another image, or {newer}"


def _is_runtime(name: str) -> bool:
    return name.startswith("nvidia_cuda_runtime")


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
