"""Code that this Python's parser refuses: whether the job's newer one may take it, and which names are in it."""

from __future__ import annotations

import keyword
import re
import sys

_WRONG_IN_ALL = ("was never closed", "unmatched", "does not match opening parenthesis")
_TEXT_WITH_CODE = re.compile(r"""\b(?:[fFtT][rR]?|[rR][fFtT])['"]|get_ipython\(""")
_TOKEN = re.compile(
    r"""#[^\n]*|(?:\b[rRbBuU]{1,2})?(?:\"{3}(?:[^\\]|\\.)*?\"{3}|'{3}(?:[^\\]|\\.)*?'{3}|"(?:[^"\\\n]|\\.)*"?|"""
    r"""'(?:[^'\\\n]|\\.)*'?)""",
    re.DOTALL,
)
_NAME = re.compile(r"(?<![\w.])[^\W\d]\w*(?!\w|\s*=(?!\s*[=}!:]))")


def may_take(version: str, error: SyntaxError, code: str) -> bool:
    """Whether a Python of this version, "" where nobody knows it yet, may accept what this one's parser refused.

    An older one knows nothing that this one doesn't, and brackets and indentation are the same in all.
    """
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers and numbers <= sys.version_info[:2]:
        return False
    if _TEXT_WITH_CODE.search(code):  # from 3.12 on, quotes within may be any, and this parser counts them wrongly
        return True
    return not isinstance(error, IndentationError) and not any(words in str(error.msg) for words in _WRONG_IN_ALL)


def names_in(code: str) -> set[str]:
    """Every name in the code that a variable may have, whatever the code does with it: more than it reads.

    Left out are attributes, what is only assigned, and the words of comments and strings, but for code that has
    strings with code in them.
    """
    text = code if _TEXT_WITH_CODE.search(code) else _TOKEN.sub(" ", code)
    return {name for name in _NAME.findall(text) if not keyword.iskeyword(name)}
