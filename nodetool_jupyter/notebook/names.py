"""Which names a cell reads before it has given them a value itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from typing import TypeAlias

from ..worker.execute import parse

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_Comprehension: TypeAlias = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_PYTHON_MAGICS = {"time", "timeit", "prun", "capture", "memit", "mprun", "lprun", "debug"}
_SHELL_NAME = re.compile(r"(?<!\$)\$(\w+)")
_SHELL_EXPRESSION = re.compile(r"\{([^{}]+)\}")
_LEADING_OPTIONS = re.compile(r"(?:-\w+\s*\S*\s+)*")


def names_read(code: str) -> set[str]:
    """Global names that Python code may read while it runs, in nested functions too, unless it surely set them first.

    Counts `del x` and `x += 1`, and what IPython puts into `!command $x` and into `%time`-like magics.
    Raises `SyntaxError`.
    """
    reader = _Reader()
    reader.block(parse(code, "<cell>").body)
    reader.finish()
    return reader.read


class _Reader(ast.NodeVisitor):
    """Walks statements in the order in which they run; `set` holds the names that surely have a value by then.

    A function's body counts when its name is first used, with what is set by then.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        self.read: set[str] = set()
        self.set: set[str] = set(known)
        self._later: dict[str, set[str]] = {}

    def block(self, body: Iterable[ast.stmt]) -> None:
        for statement in body:
            self.visit(statement)

    def finish(self) -> None:
        """Functions that were not used in the cell may be used as soon as it ends."""
        while self._later:
            _, names = self._later.popitem()
            self._load_all(names)

    def load(self, name: str) -> None:
        for_later = self._later.pop(name, None)
        if name not in self.set:
            self.read.add(name)
        if for_later:
            self._load_all(for_later)

    def _load_all(self, names: Iterable[str]) -> None:
        for name in sorted(names):
            self.load(name)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self.set.add(node.id)
        else:
            self.load(node.id)
            if isinstance(node.ctx, ast.Del):
                self.set.add(node.id)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self.load(node.target.id)
        self.visit(node.value)
        self.visit(node.target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.annotation)
        if node.value is not None:
            self.visit(node.value)
            self.visit(node.target)
        elif not isinstance(node.target, ast.Name):
            self.visit(node.target)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.set.update((alias.asname or alias.name).split(".")[0] for alias in node.names)

    visit_ImportFrom = visit_Import  # noqa: N815 - ast's names

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._visit_signature(node.args)
        for part in (*node.decorator_list, node.returns):
            if part is not None:
                self.visit(part)
        names = _body_reads(node)
        if node.decorator_list:
            self._load_all(names - {node.name})
        else:
            self._later[node.name] = names
        self.set.add(node.name)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - ast's names

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._visit_signature(node.args)
        self._load_all(_body_reads(node))

    def _visit_signature(self, arguments: ast.arguments) -> None:
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        parts: list[ast.expr | None] = [*arguments.defaults, *arguments.kw_defaults]
        parts += [argument.annotation for argument in every if argument is not None]
        for part in parts:
            if part is not None:
                self.visit(part)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in (*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)):
            self.visit(part)
        inner = _Reader(self.set)
        inner.block(node.body)
        self._load_all(inner.read)
        methods: set[str] = set().union(*inner._later.values()) - inner.read
        if node.decorator_list:
            self._load_all(methods - {node.name})
        else:
            self._later[node.name] = methods
        self.set.add(node.name)

    def _visit_comprehension(self, node: _Comprehension) -> None:
        inner = _Reader(self.set)
        for generator in node.generators:
            inner.visit(generator.iter)
            inner.visit(generator.target)
            for condition in generator.ifs:
                inner.visit(condition)
        for part in [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]:
            inner.visit(part)
        self._load_all(inner.read)
        for name in sorted(_loaded(node)):
            if name in self._later:
                self.load(name)
        self.set.update(each.target.id for each in ast.walk(node) if isinstance(each, ast.NamedExpr))

    visit_ListComp = visit_SetComp = _visit_comprehension  # noqa: N815 - ast's names
    visit_DictComp = visit_GeneratorExp = _visit_comprehension  # noqa: N815 - ast's names

    def visit_If(self, node: ast.If | ast.While) -> None:
        self.visit(node.test)
        self._branches([node.body, node.orelse], every=isinstance(node, ast.If))

    visit_While = visit_If  # noqa: N815 - ast's names

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        before = set(self.set)
        self.visit(node.target)
        self.block(node.body)
        self.set = before
        self._branches([node.orelse], every=False)

    visit_AsyncFor = visit_For  # noqa: N815 - ast's names

    def visit_Try(self, node: ast.Try | ast.TryStar) -> None:
        before = set(self.set)
        self.block(node.body)
        self.block(node.orelse)
        ends = [set(self.set)]
        for handler in node.handlers:
            self.set = set(before)
            if handler.type is not None:
                self.visit(handler.type)
            self.set |= {handler.name} if handler.name else set()
            self.block(handler.body)
            if not _leaves(handler.body):
                ends.append(set(self.set))
        self.set = before
        self.block(node.finalbody)
        self.set |= set.intersection(*ends)

    visit_TryStar = visit_Try  # noqa: N815 - ast's names

    def visit_Match(self, node: ast.Match) -> None:
        self.visit(node.subject)
        before = set(self.set)
        for case in node.cases:
            self.set = set(before)
            for pattern in ast.walk(case.pattern):
                if isinstance(pattern, ast.expr):
                    self.visit(pattern)
                for name in (getattr(pattern, "name", None), getattr(pattern, "rest", None)):
                    self.set |= {name} if isinstance(name, str) else set()
            if case.guard is not None:
                self.visit(case.guard)
            self.block(case.body)
        self.set = before

    def _branches(self, bodies: list[list[ast.stmt]], *, every: bool) -> None:
        """Run each from the same beginning; with `every`, one of them surely runs."""
        before = set(self.set)
        ends = []
        for body in bodies:
            self.set = set(before)
            self.block(body)
            if not _leaves(body):
                ends.append(self.set)
        self.set = set.intersection(*ends) if every and ends else before

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute) and _is_get_ipython(node.func.value):
            texts = [part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str)]
            self._visit_ipython(node.func.attr, texts)
        self.generic_visit(node)

    def _visit_ipython(self, method: str, texts: list[str]) -> None:
        """What IPython puts in for `$x` and `{x}`, and the code of magics that run Python."""
        if method in {"system", "getoutput"}:
            self._visit_expanded(texts[0] if texts else "")
        elif method in {"run_line_magic", "run_cell_magic"} and len(texts) >= 2:
            self._visit_expanded(texts[1])
            if texts[0] in _PYTHON_MAGICS:
                for code in texts[1:]:
                    self._visit_text(_LEADING_OPTIONS.sub("", code, count=1))

    def _visit_expanded(self, text: str) -> None:
        for name in _SHELL_NAME.findall(text):
            if name.isidentifier():
                self.load(name)
        for expression in _SHELL_EXPRESSION.findall(text):
            self._visit_text(expression)

    def _visit_text(self, code: str) -> None:
        try:
            tree = parse(code.strip(), "<cell>")
        except SyntaxError:
            return
        self.block(tree.body)


def _is_get_ipython(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "get_ipython"


def _leaves(body: list[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], ast.Raise | ast.Return | ast.Continue | ast.Break)


def _loaded(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)}


def _body_reads(function: Function) -> set[str]:
    """The global names that a function's body reads, in functions inside it too."""
    import symtable

    if isinstance(function, ast.Lambda):
        tree: ast.stmt = ast.Expr(ast.Lambda(_bare(function.args), function.body))
    else:
        kind = type(function)
        tree = kind(name=function.name, args=_bare(function.args), body=function.body, decorator_list=[], returns=None)
    text = ast.unparse(ast.fix_missing_locations(ast.Module([tree], [])))
    found = _changed_globals(function)
    tables = symtable.symtable(text, "<cell>", "exec").get_children()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            if symbol.is_global() and symbol.is_referenced():
                found.add(symbol.get_name())
    return found


def _changed_globals(function: Function) -> set[str]:
    """Names declared `global` that are changed in place or deleted, which `symtable` doesn't count as reading."""
    declared = {name for each in ast.walk(function) if isinstance(each, ast.Global) for name in each.names}
    changed = {
        each.target.id
        for each in ast.walk(function)
        if isinstance(each, ast.AugAssign) and isinstance(each.target, ast.Name)
    }
    changed |= {each.id for each in ast.walk(function) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Del)}
    return declared & changed


def _bare(arguments: ast.arguments) -> ast.arguments:
    """The same parameters without defaults and annotations, which are read when the function is made."""

    def plain(argument: ast.arg | None) -> ast.arg | None:
        return ast.arg(argument.arg) if argument is not None else None

    def plain_all(several: list[ast.arg]) -> list[ast.arg]:
        return [ast.arg(argument.arg) for argument in several]

    return ast.arguments(
        posonlyargs=plain_all(arguments.posonlyargs),
        args=plain_all(arguments.args),
        vararg=plain(arguments.vararg),
        kwonlyargs=plain_all(arguments.kwonlyargs),
        kw_defaults=[None] * len(arguments.kwonlyargs),
        kwarg=plain(arguments.kwarg),
        defaults=[],
    )
