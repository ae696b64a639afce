"""What `doctor` says of containers: the engine, the default image, and an image's GPU software beside the driver."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from nodetool_jupyter.containers import default_image
from nodetool_jupyter.errors import InvalidRequest
from nodetool_jupyter.notebook.doctor_docker import engine_report, image_report
from nodetool_jupyter.runners.docker.runner import DockerRunner
from nodetool_jupyter.runners.docker.versions import Software, driver_version, findings, newest_cuda, too_new
from tests.docker.jobs import jobs_on
from tests.engine import images
from tests.engine.private import Engine

PROC = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version: 12\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)\n"
FILES = {
    "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "12.4.20240"}}',
    "usr/lib/x86_64-linux-gnu/libcudnn.so.9.1.0": "",
    f"usr/local/lib/python{images.PYTHON}/dist-packages/torch-2.5.1+cu124.dist-info/METADATA": "",
    f"usr/local/lib/python{images.PYTHON}/dist-packages/jax-0.4.35.dist-info/METADATA": "",
    f"usr/local/lib/python{images.PYTHON}/dist-packages/nvidia_cudnn_cu12-9.1.0.70.dist-info/METADATA": "",
    "opt/ComfyUI/comfyui_version.py": '__version__ = "0.3.10"\n',
}


@pytest.fixture
def runner(engine: Engine, environ: dict[str, str]) -> Iterator[DockerRunner]:
    with jobs_on(engine, environ) as jobs:
        found = jobs.manager.runner("docker")
        assert isinstance(found, DockerRunner)
        yield found


@pytest.fixture
def gpu_image(docker_client: docker.DockerClient) -> Iterator[str]:
    """An image that tells of CUDA in its environment and has the files of frameworks."""
    container = docker_client.api.create_container(images.IMAGE, ["true"])
    docker_client.api.put_archive(container, "/", _tar(FILES))
    changes = [*images.BASE, "ENV CUDA_VERSION=12.6.1", "ENV NV_CUDNN_VERSION=9.3.0.75-1"]
    docker_client.api.commit(container, "nodetool-test", "gpu", changes=changes)
    docker_client.api.remove_container(container)
    yield "nodetool-test:gpu"
    docker_client.api.remove_image("nodetool-test:gpu")


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    path = tmp_path / "version"
    path.write_text(PROC)
    return path


def test_the_engine_is_described(runner: DockerRunner) -> None:
    said = list(engine_report(runner, default_image(), "missing"))
    facts = runner.engine.facts()
    assert f"storage driver    {facts['Driver']}" in said
    assert f"control groups    version {facts['CgroupVersion']}, driver {facts['CgroupDriver']}" in said
    assert any(line.startswith("engine ") and facts["ServerVersion"] in line for line in said)
    assert any(line.startswith("GPU runtime") for line in said)


def test_the_default_image_is_held_against_the_kernels_python(
    runner: DockerRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.python_version_tuple", lambda: ("3", "11", "7"))
    said = list(engine_report(runner, images.DEFAULT, "missing"))
    assert any(
        line.startswith(f"default image     {images.DEFAULT} (") and f"Python {images.PYTHON}." in line for line in said
    )
    assert not [line for line in said if line.startswith("!")]
    monkeypatch.setattr("platform.python_version_tuple", lambda: ("3", "13", "0"))
    [warning] = [line for line in engine_report(runner, images.DEFAULT, "missing") if line.startswith("!")]
    assert "and the kernel 3.13" in warning


@pytest.mark.parametrize(
    ("pull", "how"), [("missing", "the first job that needs it fetches it"), ("never", "is not fetched")]
)
def test_a_default_image_that_is_not_here_is_said(runner: DockerRunner, pull: str, how: str) -> None:
    assert any(
        "nowhere:1 is not here yet, " in line and how in line for line in engine_report(runner, "nowhere:1", pull)
    )


def test_an_engine_that_does_not_answer_is_one_line(environ: dict[str, str], tmp_path: Path) -> None:
    dead = DockerRunner({"DOCKER_HOST": f"unix://{tmp_path}/none.sock"}, labels={"nodetool.owner": "me"}, standby=False)
    [line] = engine_report(dead, "python:3", "missing")
    assert line.startswith(f"! Runner 'docker' is not available: no engine answers at unix://{tmp_path}/none.sock")


def test_an_image_is_described_beside_the_driver(runner: DockerRunner, gpu_image: str, driver: Path) -> None:
    said = list(image_report(runner, gpu_image, driver))
    part = "newer than CUDA 12.2 of driver 535.183.01: it runs, but for kernels that are compiled at run time (PTX)"
    assert said[1:] == [
        "driver            535.183.01, CUDA up to 12.2",
        f"! CUDA              12.6.1 - {part}",
        "cuDNN             9.3.0.75-1",
        f"! torch             2.5.1+cu124, for CUDA 12.4 - {part}",
        "jax               0.4.35",
        "comfyui           0.3.10",
        "nvidia_cudnn_cu12 9.1.0.70",
    ]


def test_an_image_without_gpu_software_says_so(runner: DockerRunner, tmp_path: Path) -> None:
    said = list(image_report(runner, images.IMAGE, tmp_path / "none"))
    assert said[1].startswith("driver            none on this machine")
    assert said[2].startswith("GPU software      none found")


def test_an_image_that_is_not_there_is_refused(runner: DockerRunner) -> None:
    with pytest.raises(InvalidRequest, match="Image 'nowhere:1' is not on this machine"):
        list(image_report(runner, "nowhere:1"))


def test_what_files_tell_is_taken_where_the_environment_tells_nothing() -> None:
    software = Software(
        cuda="11.8.0",
        cudnn=["libcudnn.so.8", "libcudnn.so.8.9.7"],
        packages={"torch": "2.9.0", "nvidia_cuda_runtime_cu13": "13.0.48"},
    )
    assert [(one.name, one.version, one.cuda) for one in findings({}, software)] == [
        ("CUDA", "11.8.0", "11.8"),
        ("cuDNN", "8.9.7", ""),
        ("torch", "2.9.0", "13.0"),
    ]


@pytest.mark.parametrize(
    ("said", "version", "cuda"),
    [(PROC, "535.183.01", "12.2"), (OPEN, "580.65.06", "13.0"), ("", "", ""), ("NVRM version: ?", "", "")],
)
def test_the_driver_is_read(tmp_path: Path, said: str, version: str, cuda: str) -> None:
    (tmp_path / "version").write_text(said)
    assert driver_version(tmp_path / "version") == version
    assert newest_cuda(version) == cuda


@pytest.mark.parametrize(
    ("cuda", "driver", "why"),
    [
        ("12.2", "535.183.01", ""),
        ("11.8", "535.183.01", ""),
        ("12.4", "535.183.01", "it runs, but for kernels that are compiled at run time"),
        ("13.0", "535.183.01", "take another image, or driver 580 or newer"),
        ("12.0", "470.1", "which goes up to CUDA 11.4: take another image, or driver 525 or newer"),
        ("12.0", "390.1", "which goes up to CUDA 9: take another image, or driver 525 or newer"),
        ("99.0", "580.1", "take another image, or a newer driver"),
        ("12.0", "", ""),
        ("", "535.1", ""),
    ],
)
def test_what_is_too_new_for_the_driver_is_said(cuda: str, driver: str, why: str) -> None:
    assert (why in too_new(cuda, driver)) if why else not too_new(cuda, driver)


def _tar(files: dict[str, str]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return written.getvalue()
