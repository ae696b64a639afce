"""Networks: a kernel's own bridge, and one that a person made."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from nodetool_jupyter.containers import ContainerOptions
from nodetool_jupyter.jobs import JobStatus
from tests.components import require, require_right
from tests.docker.jobs import Jobs, isolation, jobs_on
from tests.engine import images, private
from tests.engine.private import Engine, until
from tests.engine.shared import ask_for_engine
from tests.workflows.seeing import text

LISTEN = """
import socket
server = socket.create_server(("0.0.0.0", 5000))
print(socket.gethostbyname(socket.gethostname()), flush=True)
while True:
    server.accept()
"""
CONNECT = """
import socket
try:
    socket.create_connection(({address!r}, 5000), timeout=3).close()
    print("reached")
except OSError:
    print("kept apart")
"""


@pytest.fixture(scope="module")
def firewalled() -> Iterator[Engine]:
    """An engine that may write the rules which keep containers apart: in a network namespace of its own."""
    ask_for_engine()
    tool = require("iptables", shutil.which("iptables"), "apt-get install iptables")
    tried = subprocess.run(["unshare", "--net", tool, "-t", "nat", "-L"], capture_output=True, text=True)
    require_right("A firewall", tried.returncode == 0, f"a kernel with netfilter; here: {tried.stderr.strip()}")
    with private.running(firewall=True) as found:
        with found.client() as client:
            images.load(client, variants=False)
            client.networks.create("shared")
        yield found


@pytest.mark.parametrize(("network", "said"), [("bridge", "kept apart\n"), ("shared", "reached\n")])
def test_jobs_see_each_other_on_a_network_that_you_made_and_not_on_the_kernels_own(
    firewalled: Engine, environ: dict[str, str], network: str, said: str
) -> None:
    options = ContainerOptions(network=network)
    with jobs_on(firewalled, environ) as jobs:
        listening = jobs.submit(LISTEN, container=options)
        address = until(lambda: text(jobs.manager.events(listening.id)).strip(), "it listens")
        job, events = jobs.run(CONNECT.format(address=address), container=options)
        assert (job.status, text(events)) == (JobStatus.COMPLETED, said), job.message
        jobs.manager.cancel(listening.id, grace_seconds=0)
        jobs.end(listening)


def test_a_bridge_is_the_kernels_own(jobs: Jobs) -> None:
    job, events = jobs.run(
        "import os\nprint(sorted(os.listdir('/sys/class/net')))", container=ContainerOptions(network="bridge")
    )
    assert (job.status, text(events)) == (JobStatus.COMPLETED, "['eth0', 'lo']\n"), job.message
    name = isolation(events).details["network"]
    assert name == f"nodetool-{jobs.manager.owner.id}"
    with jobs.engine.client() as client:
        found = client.api.inspect_network(name)
    assert found["Options"] == {"com.docker.network.bridge.enable_icc": "false"}
    assert found["Labels"]["nodetool.owner"] == jobs.manager.owner.id


def test_a_bridge_that_somebody_removed_is_made_again(jobs: Jobs) -> None:
    options = ContainerOptions(network="bridge")
    _, events = jobs.run("1", container=options)
    with jobs.engine.client() as client:
        until(lambda: not jobs.containers(), "nobody is on it")
        client.api.remove_network(isolation(events).details["network"])
    job, _ = jobs.run("1", container=options)
    assert "network of this kernel's containers was removed. Run the cell again" in job.message
    job, _ = jobs.run("1", container=options)
    assert job.status is JobStatus.COMPLETED, job.message
