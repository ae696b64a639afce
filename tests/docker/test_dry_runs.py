"""What `--dry-run` says of a container is what the run has."""

from __future__ import annotations

from collections.abc import Callable

import docker
import pytest
from IPython.core.interactiveshell import InteractiveShell

from tests.engine import images
from tests.notebook.conftest import refused, shell  # noqa: F401  # pytest finds fixtures by name

Planned = Callable[[str], dict[str, str]]


@pytest.fixture
def planned(
    docker_client: docker.DockerClient,
    shell: InteractiveShell,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> Planned:
    """The rows of a dry run with these options."""

    def run(options: str) -> dict[str, str]:
        shell.run_cell(f"%%nodetool -r docker --dry-run {options}\n1").raise_error()
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1] == "Nothing was started."
        return {line[:12].rstrip(): line[12:] for line in lines[:-1]}

    return run


def test_untrusted_code_is_shown_the_time_and_the_pull_that_it_gets(planned: Planned) -> None:
    rows = planned(f"--image {images.IMAGE} --profile untrusted")
    assert "time 5:00 (timer)" in rows["limits"]
    assert "time" not in rows.get("can hold", "")
    assert rows["pull"] == "never"
    assert "time 1:00 (timer)" in planned(f"--image {images.IMAGE} --profile untrusted -t 1m")["limits"]


def test_an_image_that_untrusted_code_does_not_fetch_is_refused_as_by_the_run(
    planned: Planned,
    shell: InteractiveShell,  # noqa: F811
) -> None:
    cell = "%%nodetool -r docker --image not-there:1 --profile untrusted{}\n1"
    assert refused(shell, cell.format(" --dry-run")) == refused(shell, cell.format(""))


def test_what_will_be_built_is_told(planned: Planned) -> None:
    rows = planned(f"--image {images.IMAGE} --requirements 'numpy>=2 pandas'")
    assert rows["builds"] == "an image with numpy>=2, pandas from wheels, unless it was built before"
    assert "builds" not in planned(f"--image {images.IMAGE}")


def test_a_network_that_is_given_by_its_id_is_told_by_its_name(
    planned: Planned, docker_client: docker.DockerClient
) -> None:
    network = docker_client.networks.create("mine-of-the-tests")
    try:
        rows = planned(f"--image {images.IMAGE} --network {network.id[:12]}")
    finally:
        network.remove()
    assert "network mine-of-the-tests" in rows["isolation"]
    assert "network bridge" in planned(f"--image {images.IMAGE} --network bridge")["isolation"]
