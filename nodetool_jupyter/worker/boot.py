"""First lines of a worker: make this package importable from its own folder, then hand over to `main`.

Started as `python -I -S boot.py` by any CPython from 3.11, with the private channel on descriptor 3 (with the
argument `warm` it is the warm parent, see `zygote`). `sys.path`
is left as it is: the kernel's arrives later, through the channel.
"""

import sys

CHANNEL = 3
OLDEST = (3, 11)


def _importable(folder: str) -> None:
    from importlib.machinery import ModuleSpec, SourceFileLoader

    name = "nodetool_jupyter"
    path = f"{folder}/__init__.py"
    loader = SourceFileLoader(name, path)
    spec = ModuleSpec(name, loader, origin=path, is_package=True)
    spec.submodule_search_locations = [folder]
    spec.has_location = True
    module = type(sys)(name)
    module.__file__, module.__path__, module.__package__ = path, [folder], name
    module.__spec__, module.__loader__ = spec, loader
    sys.modules[name] = module
    loader.exec_module(module)


def _boot() -> None:
    if sys.version_info < OLDEST or sys.implementation.name != "cpython":
        found = f"{sys.implementation.name} {sys.version.split()[0]}"
        sys.exit(f"{sys.executable} is {found}; a job needs CPython {OLDEST[0]}.{OLDEST[1]} or newer.")
    _importable(__file__.rpartition("/worker/")[0])
    if sys.argv[1:] == ["warm"]:
        from nodetool_jupyter.worker.zygote import serve

        serve(CHANNEL)
        return
    from nodetool_jupyter.worker.main import main

    main(CHANNEL)


if __name__ == "__main__":
    _boot()
