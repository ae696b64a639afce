"""Raising an exception in another thread, without harm to those who trace."""

from __future__ import annotations

import ctypes
import sys
import threading
import time

_SPINS_WHEN_TRACED = sys.version_info < (3, 12)
_BURST_SECONDS = 0.01
_TRACERS = ("coverage.", "pydevd", "_pydevd", "debugpy.", "bdb")
_LOOKS = 100
_LOOK_SECONDS = 0.0005


class _Lowered(BaseException):
    """Raised in the raising thread itself; CPython lowers its flag only when one arrives."""


def raise_in_thread(thread_id: int) -> None:
    """Have `KeyboardInterrupt` raised at the next step that the thread takes in Python.

    It is not left waiting for a thread that is in C code while this thread is traced or profiled:
    CPython 3.11 would never get past the start of a function in any traced thread until it arrives.
    """
    _wait_while_a_tracer_runs(thread_id)
    target, mine = ctypes.c_ulong(thread_id), ctypes.c_ulong(threading.get_ident())
    interrupt, lowered = ctypes.py_object(KeyboardInterrupt), ctypes.py_object(_Lowered)
    raise_in, sleep = ctypes.pythonapi.PyThreadState_SetAsyncExc, time.sleep
    if not (_SPINS_WHEN_TRACED and _is_traced()):
        raise_in(target, interrupt)
        return
    # from here on no function in Python may be called: it would be the one that never starts
    raise_in(target, interrupt)
    sleep(_BURST_SECONDS)
    raise_in(target, None)
    try:
        raise_in(mine, lowered)
        while True:
            pass
    except _Lowered:
        return


def _is_traced() -> bool:
    found = sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile()
    return any(each is not None for each in found)


def _wait_while_a_tracer_runs(thread_id: int) -> None:
    """Leave a debugger or coverage alone in that thread: an exception there would leave its lock held."""
    for _ in range(_LOOKS):
        frame = sys._current_frames().get(thread_id)
        if frame is None or not str(frame.f_globals.get("__name__", "")).startswith(_TRACERS):
            return
        time.sleep(_LOOK_SECONDS)
