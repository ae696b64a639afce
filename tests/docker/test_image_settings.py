"""What an image says about itself: what of it counts for a job, and what doesn't."""

from __future__ import annotations

from collections.abc import Iterator

import docker
import msgspec
import pytest

from nodetool_jupyter.containers import ContainerOptions
from nodetool_jupyter.errors import InvalidRequest
from nodetool_jupyter.jobs import JobStatus, Profile, Reason
from nodetool_jupyter.view.isolation import isolation_text
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
        client.api.remove_container(changed(client, code, NAME, *SETTINGS))
        yield ContainerOptions(image=NAME)
        client.images.remove(NAME)


def changed(client: docker.DockerClient, code: str, name: str, *settings: str) -> str:
    """Commit what root's Python makes of the image; the container that it ran in."""
    made = client.api.create_container(images.IMAGE, ["python3", "-c", code], host_config={"NetworkMode": "none"})
    client.api.start(made)
    assert client.api.wait(made)["StatusCode"] == 0
    client.api.commit(made, *name.split(":"), changes=settings)
    return str(made["Id"])


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


def test_a_name_for_root_makes_no_root_and_one_that_was_asked_for_is_told(jobs: Jobs, image: ContainerOptions) -> None:
    code = "import os\nprint(os.getuid(), os.getgid(), os.getgroups())"
    _, events = jobs.run(code, container=image)
    assert text(events) == "65534 65534 [65534]\n"
    assert isolation(events).details["user"] == "65534:65534"
    _, events = jobs.run(code, container=ContainerOptions(image=NAME, user="toor"))
    assert text(events) == "0 0 [0]\n"
    assert "user 0 (root)" in isolation_text(isolation(events))


def test_a_named_user_who_is_not_root_is_kept_and_told_by_number(jobs: Jobs) -> None:
    options = ContainerOptions(image="nodetool-test:user")
    code = "import os\nprint(os.getuid(), os.getgid())"
    job, events = jobs.run(code, container=options)
    assert (text(events), isolation(events).details["user"]) == ("33 33\n", "33:33"), job.message
    foreseen = jobs.manager.runner("docker").foresee(job.request)
    assert foreseen.details["user"] == "33:33"
    _, events = jobs.run(code, container=options, profile=Profile.UNTRUSTED)
    assert text(events) == "65534 65534\n"


@pytest.mark.parametrize("profile", [Profile.DEFAULT, Profile.UNTRUSTED])
@pytest.mark.parametrize("user", ["1234", "1234:99"])
def test_a_number_without_a_group_is_not_in_roots(jobs: Jobs, user: str, profile: Profile) -> None:
    options = ContainerOptions(image=images.IMAGE, user=user)
    job, events = jobs.run("import os\nprint(os.getuid(), os.getgid())", container=options, profile=profile)
    uid, _, gid = user.partition(":")
    assert text(events) == f"{uid} {gid or uid}\n", job.message
    assert isolation(events).details["user"] == f"{uid}:{gid or uid}"


@pytest.mark.parametrize(
    "made",
    [
        "os.remove('/etc/passwd')",
        "open('/etc/passwd', 'a').write('one:x:1:1::/:\\n' * 100_000)",
        "os.remove('/etc/passwd')\nos.symlink('/proc/self/environ', '/etc/passwd')",
    ],
)
def test_an_image_without_a_list_of_its_users_has_none(jobs: Jobs, run_engine: Engine, made: str) -> None:
    with run_engine.client() as client:
        client.api.remove_container(
            changed(client, f"import os\n{made}", "nodetool-test:unlisted", *images.BASE, "USER www-data")
        )
        try:
            _, events = jobs.run("1", container=ContainerOptions(image="nodetool-test:unlisted"))
            assert isolation(events).details["user"] == "65534:65534"
        finally:
            jobs.nothing_is_left()
            client.images.remove("nodetool-test:unlisted")


HIDDEN = "open('/etc/passwd', 'a').write('evil:x:0:0::/:/bin/sh\\nplain:x:5000:5001::/:/bin/sh\\n')\n"
LINKED = (
    f"{HIDDEN}os.rename('/etc/passwd', '/srv/people')\n"
    "os.symlink('../srv/people', '/etc/more')\nos.symlink('more', '/etc/passwd')"
)
LARGE = f"{HIDDEN}open('/etc/passwd', 'a').write('#\\n' * (1 << 20))"
NOWHERE = "os.remove('/etc/passwd')\nos.symlink('/nowhere/passwd', '/etc/passwd')"


@pytest.fixture
def made(run_engine: Engine, jobs: Jobs, request: pytest.FixtureRequest) -> Iterator[ContainerOptions]:
    """An image with what a test makes of its files."""
    name = "nodetool-test:unlisted"
    with run_engine.client() as client:
        client.api.remove_container(changed(client, f"import os\n{request.param}", name, *images.BASE, "USER evil"))
        try:
            yield ContainerOptions(image=name)
        finally:
            jobs.nothing_is_left()
            client.images.remove(name)


@pytest.mark.parametrize("made", [LINKED], indirect=True)
def test_a_list_of_users_that_is_a_link_is_read_where_it_ends(jobs: Jobs, made: ContainerOptions) -> None:
    for user, expected in (("", "65534:65534"), ("plain", "5000:5001"), ("evil", "0:0")):
        options = msgspec.structs.replace(made, user=user)
        _, events = jobs.run("import os\nprint(f'{os.getuid()}:{os.getgid()}')", container=options)
        assert text(events) == f"{expected}\n"
        assert isolation(events).details["user"] == expected
    assert "user 0 (root)" in isolation_text(isolation(events))


@pytest.mark.parametrize("made", [LARGE, NOWHERE], indirect=True)
@pytest.mark.parametrize("user", ["evil", "root:adm"])
def test_a_name_that_can_not_be_put_into_numbers_is_refused(jobs: Jobs, made: ContainerOptions, user: str) -> None:
    options = msgspec.structs.replace(made, user=user)
    job, _ = jobs.run("1", container=options)
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.START_FAILED)
    assert job.message.startswith(f"The image has no user '{user}' whose number can be read")
    with pytest.raises(InvalidRequest, match="as in --user 1000:1000"):
        jobs.manager.runner("docker").foresee(job.request)
    number, events = jobs.run("1", container=msgspec.structs.replace(made, user="1000"))
    assert isolation(events).details["user"] == "1000:1000", number.message
