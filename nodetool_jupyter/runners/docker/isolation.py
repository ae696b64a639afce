"""What is in force for a job in a container, in the words of the `isolation` event."""

from __future__ import annotations

from collections.abc import Iterable

from ...events import Isolation
from ...jobs import JobRequest, Profile
from ...worker import seccomp
from .boxes import Box
from .images import Image
from .spec import ContainerSpec


def isolation_of(request: JobRequest, box: Box, image: Image) -> Isolation:
    """What is in force for the job in a box: what `inspect` confirmed."""
    return isolation(request, box.spec, image, lacking=box.not_held, python=box.python, container=box.id[:12])


def isolation(
    request: JobRequest, spec: ContainerSpec, image: Image, *, lacking: Iterable[str] = (), **details: str
) -> Isolation:
    """What is in force, or would be. lacking: limits of the profile that the engine did not apply."""
    host, lacking = spec.host, set(lacking)
    return Isolation(
        runner="docker",
        profile=request.profile.value,
        boundary="container",
        held={name: how for name, how in spec.held.items() if name not in lacking},
        not_held=tuple(sorted({*spec.not_held, *lacking})),
        details={
            **details,
            "image": image.name,
            "image_id": image.id,
            "digest": image.digest,
            **(_built(request, spec, image) if image.built else {}),
            "user": spec.config["User"],
            "network": host["NetworkMode"],
            "read_only": host["ReadonlyRootfs"],
            "capabilities": "none",
            "no_new_privileges": True,
            **({"seccomp": seccomp.IN_WORDS} if request.profile is Profile.UNTRUSTED else {}),
            "mounts": [f"{mount['Source']}:{mount['Target']}{':ro' * mount['ReadOnly']}" for mount in host["Mounts"]],
            "gpus": [id_ for one in host["DeviceRequests"] or () for id_ in one.get("DeviceIDs", ["all"])],
            "profile_limits": dict(spec.defaults),
        },
    )


def _built(request: JobRequest, spec: ContainerSpec, image: Image) -> dict[str, object]:
    return {
        "built": spec.config["Image"],
        "built_name": image.built,
        "requirements": list(request.container.requirements),
    }
