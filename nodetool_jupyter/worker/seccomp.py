"""A filter of system calls for untrusted code: what no cell needs and what reaches into the kernel, refused.

`program` is the filter as the kernel takes it, for `bwrap --seccomp`; `load` puts it on this process for good. It
stands beside whatever filter is there already and needs no more than the standard library.
"""

from __future__ import annotations

import os
import struct

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_SECOND_ARGUMENT, _THIRD_ARGUMENT, _FOURTH_ARGUMENT = 24, 32, 40
_EPERM, ENOSYS, _EAFNOSUPPORT = 1, 38, 97
_X32 = 0x40000000
NEW_NAMESPACE = 0x7E020000
FAMILIES = (1, 2, 10, 16)  # Unix, IPv4, IPv6, netlink: the ones that a network namespace holds in
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
REFUSED: dict[str, tuple[int | None, int | None]] = {
    # into other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    # out of the namespaces, or into new ones
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    # where most holes of the kernel were
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "userfaultfd": (323, 282),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "modify_ldt": (154, None),
    "lookup_dcookie": (212, 18),
    "fanotify_init": (300, 262),
    "personality": (135, 92),
    # the machine itself; of contexts for input and output at once all programs together have so many
    "io_setup": (206, 0),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "iopl": (172, None),
    "ioperm": (173, None),
    "acct": (163, 89),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "syslog": (103, 116),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
}
"""Calls that fail with EPERM, with their numbers on x86_64 and aarch64."""
UNCOUNTED: dict[str, tuple[int, int]] = {
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "vmsplice": (278, 75),
}
"""Calls for memory that is no process's own: refused where only a watch over the processes limits it."""
IN_WORDS = f"{len(REFUSED)} system calls refused"

_PINNED = (203, 122)  # sched_setaffinity
_CLONE, _CLONE3 = (56, 220), (435, 435)
_SOCKETS = ((41, 198), (53, 199))
_MMAP, _SETSOCKOPT, _FCNTL = (9, 222), (54, 208), (72, 25)
_SHARED, _ANONYMOUS = 0x1, 0x20
_SOL_SOCKET, _BUFFER_SIZES = 1, (7, 8, 60)  # SO_SNDBUF, SO_RCVBUF, SO_ZEROCOPY
_SET_PIPE_SIZE = 1031


def in_words(*, counted: bool = True) -> str:
    """How many calls are refused, for a person."""
    return IN_WORDS if counted else f"{len(REFUSED) + len(UNCOUNTED)} system calls refused"


def program(machine: str = "", *, pinned: bool = False, counted: bool = True) -> bytes:
    """The filter for a machine (as `os.uname().machine` calls it; "" for this one), in struct sock_filter.

    Other architectures, x32 among them, end the process. `clone3` is said not to exist: its flags can't be looked
    at, and libraries then take `clone`. `pinned`: the process must stay on the processors that it was given.
    `counted`: a control group counts all of its memory; else there is none but what the processes themselves hold.
    Raises `OSError` for a machine whose calls are not known here.
    """
    machine = machine or os.uname().machine
    if machine not in ARCHITECTURES:
        raise OSError(f"there is no filter of system calls for {machine}")
    column = list(ARCHITECTURES).index(machine)
    steps = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, ARCHITECTURES[machine]), (_RETURN, 0, 0, _KILL)]
    steps.append((_LOAD, 0, 0, _NUMBER))
    if machine == "x86_64":
        steps += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    refused = [*REFUSED.values(), *([_PINNED] if pinned else []), *([] if counted else UNCOUNTED.values())]
    for numbers in refused:
        number = numbers[column]
        if number is not None:
            steps += _when(number, [(_RETURN, 0, 0, _REFUSE | _EPERM)])
    steps += _when(_CLONE3[column], [(_RETURN, 0, 0, _REFUSE | ENOSYS)])
    namespaces = [(_ANY_BIT, 0, 1, NEW_NAMESPACE), (_RETURN, 0, 0, _REFUSE | _EPERM)]
    steps += _when(_CLONE[column], [(_LOAD, 0, 0, _FIRST_ARGUMENT), *namespaces, (_RETURN, 0, 0, _ALLOW)])
    for call in _SOCKETS:
        known = [(_EQUAL, len(FAMILIES) - n, 0, family) for n, family in enumerate(FAMILIES)]
        ends = [(_RETURN, 0, 0, _REFUSE | _EAFNOSUPPORT), (_RETURN, 0, 0, _ALLOW)]
        steps += _when(call[column], [(_LOAD, 0, 0, _FIRST_ARGUMENT), *known, *ends])
    steps += [] if counted else _no_memory_apart(column)
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _no_memory_apart(column: int) -> list[tuple[int, int, int, int]]:
    """Refuse memory that is shared and no file's, and larger buffers of sockets and pipes."""
    refuse, allow = (_RETURN, 0, 0, _REFUSE | _EPERM), (_RETURN, 0, 0, _ALLOW)
    flags = [(_LOAD, 0, 0, _FOURTH_ARGUMENT), (_ANY_BIT, 0, 2, _SHARED), (_ANY_BIT, 0, 1, _ANONYMOUS), refuse, allow]
    sizes = [(_EQUAL, len(_BUFFER_SIZES) - n, 0, option) for n, option in enumerate(_BUFFER_SIZES)]
    level = [(_LOAD, 0, 0, _SECOND_ARGUMENT), (_EQUAL, 1, 0, _SOL_SOCKET), allow]
    option = [(_LOAD, 0, 0, _THIRD_ARGUMENT), *sizes, allow, refuse]
    pipe = [(_LOAD, 0, 0, _SECOND_ARGUMENT), (_EQUAL, 0, 1, _SET_PIPE_SIZE), refuse, allow]
    return [
        *_when(_MMAP[column], flags),
        *_when(_SETSOCKOPT[column], [*level, *option]),
        *_when(_FCNTL[column], pipe),
    ]


def _when(number: int, then: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """These steps for one call, and on to the next for every other."""
    return [(_EQUAL, 0, len(then), number), *then]


def load() -> None:
    """Put the filter on this process and all that it starts; there is no way back. Raises `OSError`.

    Call it before there are threads: those that run already go on without it.
    """
    import ctypes

    code = program()
    libc = ctypes.CDLL(None, use_errno=True)
    steps = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(steps))
    for arguments in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _MODE_FILTER, described, 0, 0)):
        if libc.prctl(*arguments) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"the filter of system calls can't be loaded: {os.strerror(number)}")
