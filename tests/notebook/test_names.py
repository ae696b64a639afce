"""Which names a cell needs from outside."""

from __future__ import annotations

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from nodetool_jupyter.notebook.names import names_read

CASES = [
    ("x", "x"),
    ("x = 1\nx", ""),
    ("df = df.dropna()", "df"),
    ("n += 1", "n"),
    ("del big", "big"),
    ("a.b = c[d]", "a c d"),
    ("f'{name!r:>{width}}'", "name width"),
    ("import os.path as p, json\np, json", ""),
    ("import xml.dom\nxml", ""),
    ("from math import sin as s\ns(x)", "s x".replace("s ", "")),
    ("for i in rows:\n    t = i\nprint(t)", "rows print t"),
    ("for i in range(3): pass", "range"),
    ("while going: going = step()", "going step"),
    ("[a for a in b if c]", "b c"),
    ("{k: v for k, v in m.items()}", "m"),
    ("[y := f(x) for x in xs]\ny", "f xs"),
    ("def f(a, b=default) -> Result:\n    return a + g(b)\n", "default Result g"),
    ("def f():\n    return helper()\ndef helper():\n    return 1\nf()", ""),
    ("def f():\n    return helper()\nf()\ndef helper():\n    return 1", "helper"),
    ("def f(): return f()", ""),
    ("def f():\n    def g():\n        return deep + local\n    local = 1\n    return g", "deep"),
    ("def f():\n    global total\n    total += 1\nf()", "total"),
    ("g = lambda x, y=z: x + y + w", "z w"),
    ("class A(Base, metaclass=M):\n    k = v\n    def m(self): return k2, self.k, A", "Base M v k2"),
    ("@decorate\ndef f(): return inner", "decorate inner"),
    ("if c:\n    a = 1\nelse:\n    a = 2\na", "c"),
    ("if c:\n    a = 1\na", "c a"),
    ("if c:\n    raise E\nelse:\n    a = 2\na", "c E"),
    ("try:\n    import fast\nexcept ImportError as e:\n    fast = e\nfast", "ImportError"),
    ("try:\n    a = 1\nexcept E:\n    pass\na", "E a"),
    ("try:\n    a = 1\nfinally:\n    b\na", "b"),
    ("with open(p) as fh:\n    fh.read()", "open p"),
    ("async with a as b:\n    await b", "a"),
    ("await job", "job"),
    ("async for i in src: i", "src"),
    ("async def f(): return await g()\nawait f()", "g"),
    ("match v:\n    case P(x=1, y=yy) | K.z: use(yy)\n    case [q, *r]: q, r", "v P K use"),
    ("x: T = 1\ny: U", "T U"),
    ("print(x) if y else z", "print x y z"),
    ("a = b = c", "c"),
    ("(a, [b, *d]) = e\na, b, d", "e"),
    ("def gen(xs):\n    yield from (x * scale for x in xs)", "scale"),
    ("try:\n    pass\nexcept* E as group:\n    group", "E"),
]


@pytest.mark.parametrize(("code", "names"), CASES, ids=[case[0][:40] for case in CASES])
def test_names_are_read_before_they_are_set(code: str, names: str) -> None:
    assert names_read(code) == set(names.split())


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("!ls $folder/{name}.txt $$", {"folder", "name"}),
        ("files = !ls {where}", {"where"}),
        ("%time fit(model)", {"fit", "model"}),
        ("%timeit -n 3 fit(model)", {"fit", "model"}),
        ("%%time\nx = y\nx", {"y"}),
        ("%cd $place", {"place"}),
    ],
)
def test_names_in_commands_and_magics_are_read_too(cell: str, names: set[str]) -> None:
    code = TransformerManager().transform_cell(cell)
    assert names_read(code) - {"get_ipython"} == names


def test_broken_code_is_said_to_be_broken() -> None:
    with pytest.raises(SyntaxError):
        names_read("x = = 1")
