"""Values as MIME bundles: without IPython where that makes no difference, else by its formatters."""

from __future__ import annotations

import sys
from binascii import b2a_base64

from .current import current
from .execute import attempt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .current import Inside, Report

    Bundle = tuple[dict[str, Any], dict[str, Any]]

_METHODS = {
    "_repr_html_": "text/html",
    "_repr_markdown_": "text/markdown",
    "_repr_svg_": "image/svg+xml",
    "_repr_png_": "image/png",
    "_repr_jpeg_": "image/jpeg",
    "_repr_latex_": "text/latex",
    "_repr_json_": "application/json",
    "_repr_javascript_": "application/javascript",
    "_repr_pdf_": "application/pdf",
}
_SCALARS = (bool, int, float, complex, str, bytes)
_CONTAINERS = (list, tuple, dict)
_LINE = 79
_MOST_BYTES = 7 << 20
_WIDGET = "application/vnd.jupyter.widget-view+json"

_find_shell: Callable[[], Any] = lambda: None  # noqa: E731 - a default that `use_shell` replaces
_shell_exists: Callable[[], bool] = lambda: False  # noqa: E731 - the same


def use_shell(find: Callable[[], Any], exists: Callable[[], bool]) -> None:
    """Say where IPython's shell comes from: `find` makes it when needed (or `None`), `exists` does not."""
    global _find_shell, _shell_exists
    _find_shell, _shell_exists = find, exists


def bundle(value: object) -> Bundle:
    """How a value is shown; empty when it showed itself. Failing reprs are reported on stderr and left out."""
    if (type(value) in _SCALARS or _is_short(value)) and not _shell_exists():
        return {"text/plain": repr(value)}, {}
    return _by_ipython(value) or by_methods(value)


def _is_short(value: Any) -> bool:
    """Whether IPython would print just the same: a flat container of scalars on one line."""
    if type(value) not in _CONTAINERS:
        return False
    members = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    return len(members) <= _LINE and all(type(m) in _SCALARS for m in members) and len(repr(value)) < _LINE


def _by_ipython(value: object) -> Bundle | None:
    shell = _find_shell()
    if shell is None:
        return None
    data, metadata = shell.display_formatter.format(value)
    drop_widget(data)
    if not any(kind.startswith("image/") for kind in data):
        _add_figure(value, data)
    return data, metadata


def drop_widget(data: dict[str, Any]) -> None:
    """Leave out a widget that no kernel knows of, and say so; its text stays."""
    inside = current()
    if data.pop(_WIDGET, None) is not None and inside is not None:
        _warn(inside, "A widget can't be shown from a process of its own: it needs the kernel. Use --runner threaded.")


def by_methods(value: object) -> Bundle:
    """The representations that an object offers by itself, where there is no IPython."""
    kind = type(value)
    if hasattr(kind, "_ipython_display_"):
        _try(value._ipython_display_)  # type: ignore[attr-defined]  # looked for above
        return {}, {}
    data: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    if hasattr(kind, "_repr_mimebundle_"):
        _merge(_try(value._repr_mimebundle_), data, metadata)  # type: ignore[attr-defined]  # looked for above
    for method, mime in _METHODS.items():
        if mime not in data and hasattr(kind, method):
            found = _try(getattr(value, method))
            if found is not None:
                pair = ({mime: found[0]}, {mime: found[1]}) if isinstance(found, tuple) else {mime: found}
                _merge(pair, data, metadata)
    _add_figure(value, data)
    if "text/plain" not in data:
        data["text/plain"] = _try(value.__repr__) or object.__repr__(value)
    return data, metadata


def _png(figure: Any) -> bytes:
    """The figure, cut to its content."""
    from io import BytesIO

    target = BytesIO()
    if figure.canvas is None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        FigureCanvasAgg(figure)
    figure.canvas.print_figure(
        target,
        format="png",
        bbox_inches="tight",
        facecolor=figure.get_facecolor(),
        edgecolor=figure.get_edgecolor(),
        dpi=figure.dpi,
    )
    return target.getvalue()


def _merge(found: Any, data: dict[str, Any], metadata: dict[str, Any]) -> None:
    more, about = found if isinstance(found, tuple) else (found, {})
    data.update({key: item for key, item in (more or {}).items() if item is not None})
    metadata.update(about or {})


def _add_figure(value: object, data: dict[str, Any]) -> None:
    figures = sys.modules.get("matplotlib.figure")
    is_figure = figures is not None and isinstance(value, figures.Figure)
    if is_figure and (value.axes or value.lines):  # type: ignore[attr-defined]  # an empty one would be a white area
        data["image/png"] = _png(value)


def _try(method: Any) -> Any:
    found, error = attempt(method)
    if error is not None:
        from .tracebacks import format_exception

        print("\n".join(format_exception(error)), file=sys.stderr)
    return found


def show(
    inside: Inside,
    data: dict[str, Any],
    metadata: dict[str, Any] | None = None,
    *,
    display_id: str = "",
    update: bool = False,
    result: bool = False,
) -> None:
    """Report a display. What is too large for a frame is left out, and said so."""
    report: Report = {"type": "display", "data": _fitting(inside, data), "metadata": plain(metadata or {})}
    report |= {"display_id": str(display_id), "update": update, "result": result}
    if report["data"] or display_id:
        inside.outlet.emit(report)


def _fitting(inside: Inside, data: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    room = _MOST_BYTES
    for mime, content in sorted(data.items(), key=lambda item: _weight(item[1])):
        room -= _weight(content)
        if room >= 0:
            kept[mime] = plain(content)
        else:
            _warn(inside, f"A display of {_weight(content):,} bytes of {mime} is too large and was left out. "
                  "Write it to a file and bring that back with nodetool_jupyter.save(path).")  # fmt: skip
    return {mime: kept[mime] for mime in data if mime in kept}


def _weight(content: object) -> int:
    if isinstance(content, str):
        return len(content) if content.isascii() else 3 * len(content)
    return len(content) * 4 // 3 if isinstance(content, bytes) else 0


def _warn(inside: Inside, sentence: str) -> None:
    inside.outlet.emit({"type": "notification", "content": sentence, "severity": "warning", "code": "NT-O02"})


def plain(value: Any, depth: int = 0) -> Any:
    """The value in strict JSON's terms: bytes in base64, no NaN, text as keys, the repr of what is left."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return float(value) if value - value == 0 else None
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes | bytearray):
        return b2a_base64(value, newline=False).decode("ascii")
    if depth > 48:
        return repr(value)
    if isinstance(value, dict):
        return {str(key): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    return _try(value.__repr__)
