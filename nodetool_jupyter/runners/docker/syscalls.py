"""The engine's own filter of system calls for untrusted code: what is named here is there, and nothing else.

The worker puts a filter of its own on itself, which needs an image whose `python3` really starts it. This one holds
whatever an image does. It takes the place of the engine's usual filter, so it has to leave out what that leaves out.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from ...worker import seccomp

_FILES = """access cachestat chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat
    faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr
    flistxattr flock fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64
    getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl lchown lgetxattr link linkat
    listxattr llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod mknodat newfstatat open openat openat2
    pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv removexattr
    rename renameat renameat2 rmdir sendfile setxattr splice stat statfs statx symlink symlinkat sync sync_file_range
    syncfs tee truncate umask unlink unlinkat utime utimensat utimes vmsplice write writev"""
_MEMORY = """brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap
    mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease
    remap_file_pages shmat shmctl shmdt shmget"""
_PROCESSES = """alarm arch_prctl capget capset execve execveat exit exit_group fork get_robust_list get_thread_area
    getegid geteuid getgid getgroups getpgid getpgrp getpid getppid getpriority getresgid getresuid getrlimit
    getrusage getsid gettid getuid ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset
    landlock_restrict_self pause pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall rseq rt_sigaction
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
    sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp
    set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setpgid setpriority setregid
    setresgid setresuid setreuid setrlimit setsid setuid sigaltstack tgkill tkill vfork wait4 waitid"""
_TALK = """accept accept4 bind connect epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait
    eventfd eventfd2 futex futex_requeue futex_wait futex_waitv futex_wake getpeername getsockname getsockopt
    listen mq_getsetattr mq_notify mq_open
    mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd poll ppoll pselect6 recvfrom recvmmsg recvmsg
    select semctl semget semop semtimedop sendmmsg sendmsg sendto setsockopt shutdown signalfd signalfd4"""
_TIME_AND_MACHINE = """adjtimex clock_getres clock_gettime clock_nanosleep getcpu getitimer getrandom gettimeofday
    nanosleep setitimer sysinfo time timer_create timer_delete timer_getoverrun timer_gettime timer_settime
    timerfd_create timerfd_gettime timerfd_settime times uname"""
ALLOWED = " ".join((_FILES, _MEMORY, _PROCESSES, _TALK, _TIME_AND_MACHINE)).split()
"""Names of system calls, whatever their arguments."""


@lru_cache(maxsize=1)
def profile() -> str:
    """The filter as the engine takes it after `seccomp=`, for its machine's own architecture and no other."""
    rules: list[dict[str, Any]] = [{"names": ALLOWED, "action": "SCMP_ACT_ALLOW"}]
    rules.append(_when("clone", value=seccomp.NEW_NAMESPACE, valueTwo=0, op="SCMP_CMP_MASKED_EQ"))
    rules += [_when(name, value=one, op="SCMP_CMP_EQ") for name in ("socket", "socketpair") for one in seccomp.FAMILIES]
    # said not to exist: its flags can't be looked at, and libraries then take `clone`
    rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": seccomp.ENOSYS})
    return json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}, separators=(",", ":"))


def _when(name: str, **first_argument: Any) -> dict[str, Any]:
    return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, **first_argument}]}
