"""Notebook cells and workflow graphs as jobs: threaded, in a process, or in a container."""

__version__ = "0.1.0"

_PLACES = {
    "run": "notebook.handle",
    "JobHandle": "notebook.handle",
    "Limits": "notebook.handle",
    "progress": "worker.inside",
    "output": "worker.inside",
    "cancelled": "worker.inside",
    "fed": "worker.inside",
    "save": "worker.inside",
    "load_ipython_extension": "notebook.extension",
    "unload_ipython_extension": "notebook.extension",
    "JobExecutionManager": "manager",
    "JobFailed": "errors",
    "JobCancelled": "errors",
    "JobStatus": "jobs",
    "JobRequest": "jobs",
    "CodeWork": "jobs",
    "Profile": "jobs",
    "Reason": "jobs",
}
_IN_A_JOB = (
    "Jobs are started there, not from within a job, which has "
    + ", ".join(name for name, place in _PLACES.items() if place == "worker.inside")
    + "."
)
__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        module = import_module(f"{__name__}.{_PLACES[name]}")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(f"{__name__}."):
            raise
        raise ImportError(f"{__name__}.{name} is for the notebook. {_IN_A_JOB}", name=__name__) from None
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
