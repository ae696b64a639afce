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
__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
