"""What an image says about itself: what of it counts for a job, and what doesn't."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nodetool_jupyter.containers import ContainerOptions
from nodetool_jupyter.jobs import JobStatus, Profile
from tests.docker.jobs import Jobs, isolation
from tests.engine import images
from tests.engine.private import Engine
from tests.workflows.seeing import text

NAME = "nodetool-test:settings"
SETTINGS = [
    *images.BASE,
    "ENV PYTHONPATH=/srv/lib:/srv/more OWN=image",
    'ENTRYPOINT ["/bin/false"]',
    "WORKDIR /srv",
    "USER toor",
]


@pytest.fixture(scope="module", autouse=True)
def image(run_engine: Engine) -> Iterator[ContainerOptions]:
    """With a root of another name, a module on its path and a program of its own."""
    code = (
        "import os\nos.makedirs('/srv/lib')\nopen('/srv/lib/of_the_image.py', 'w').write('answer = 42')\n"
        "open('/etc/passwd', 'a').write('toor:x:0:0::/:/bin/sh\\n')"
    )
    with run_engine.client() as client:
        made = client.containers.create(images.IMAGE, ["python3", "-c", code], network_mode="none")
        made.start()
        assert made.wait()["StatusCode"] == 0
        repository, tag = NAME.split(":")
        client.api.commit(made.id, repository, tag, changes=SETTINGS)
        made.remove(v=True)
        yield ContainerOptions(image=NAME)
        client.images.remove(NAME)


def test_its_environment_and_path_count_and_its_program_and_folder_do_not(jobs: Jobs, image: ContainerOptions) -> None:
    code = "import os, sys, of_the_image\nprint(os.environ['OWN'], of_the_image.answer, os.getcwd(), sys.path[:2])"
    job, events = jobs.run(code, container=image)
    assert job.status is JobStatus.COMPLETED, job.message
    assert text(events) == "image 42 /job ['/job', '/srv/lib']\n"


def test_a_name_for_root_that_only_the_image_knows_makes_no_untrusted_root(jobs: Jobs, image: ContainerOptions) -> None:
    job, events = jobs.run("import os\nprint(os.getuid())", container=image, profile=Profile.UNTRUSTED)
    assert job.status is JobStatus.COMPLETED, job.message
    assert text(events) == "65534\n"
    assert isolation(events).details["user"] == "65534:65534"
