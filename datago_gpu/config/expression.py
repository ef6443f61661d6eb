"""Parses filter expressions, such as `aesthetic > 5 and license in ("cc0", "by")`, to a small tree.

The grammar is a part of Python's, so Python's own parser reads the text. Nothing is ever evaluated as Python.
"""

from __future__ import annotations

import ast
import re
import tokenize
import warnings
from io import StringIO

from datago_gpu.config.expression_tree import (
    And,
    Column,
    Comparison,
    Constant,
    Contains,
    Expression,
    IsNull,
    Member,
    Not,
    Operator,
    Or,
    columns_in,
)

__all__ = ["ExpressionError", "parse_expression"]

_OPERATORS: dict[type[ast.cmpop], Operator] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
_WORDS: dict[str, Constant] = {"true": True, "false": False}
_MEANT = {"=": "==", "=>": ">=", "=<": "<=", "<>": "!=", "&": "and", "&&": "and", "|": "or", "||": "or", "!": "not"}
"""Operators of other languages -> the word that is allowed here."""
_LOWER_CASE = ("AND", "OR", "NOT", "IN", "IS", "NULL")
"""Words of SQL that are allowed in lower case."""
_LONGEST = 100_000
_DEEPEST = 200
"""The most levels of an expression: Python allows only so many calls within one another."""
_MOST_NAMES = 1000
"""The most places of an expression that name a column: pyarrow crashes at some thousands."""
_BY_IN = 'compare one column with many values by in ("a", "b")'
_ALLOWED = (
    'allowed are comparisons (==, !=, <, <=, >, >=), in ("a", "b"), not in, "a" in NAME, is null, is not null, and, '
    "or, not, parentheses, numbers, texts in quotes, true, false, names, and "
    'col("NAME") for names with blanks'
)


class ExpressionError(ValueError):
    """Says what is wrong with an expression, and where."""


def parse_expression(text: str) -> Expression:
    """Returns the tree of an expression. Raises ExpressionError, which names the place."""
    if len(text) > _LONGEST:
        raise ExpressionError(f"the expression has {len(text):,} characters, at most {_LONGEST:,} are allowed")
    joined = text.strip().replace("\n", " ")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python, about escapes in texts
            tree = ast.parse(joined, mode="eval")
        if "#" in joined:
            _refuse_comments(joined)
        _refuse_depth(tree)
        expression = _parse(tree.body, joined)
        count = sum(1 for _ in columns_in(expression))
        if count > _MOST_NAMES:
            raise ExpressionError(f"it names columns {count:,} times, at most {_MOST_NAMES:,} are allowed: {_BY_IN}")
        return expression
    except SyntaxError as error:
        place = max(0, (error.offset or 1) - 1)
        near = joined[place:][:20] or "the end"
        where = f"at character {place + 1}, near {near!r}"
        raise ExpressionError(f"it cannot be read {where}{_hint(joined, place)}; {_ALLOWED}") from None
    except (RecursionError, MemoryError, ValueError, tokenize.TokenError) as error:
        if isinstance(error, ExpressionError):
            raise
        raise ExpressionError(f"it cannot be read ({type(error).__name__}); {_ALLOWED}") from None


def _refuse_comments(text: str) -> None:
    """Raises ExpressionError at a comment: the lines are joined, so it would hide all that follows."""
    for token in tokenize.generate_tokens(StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            place = f"{token.string[:40]!r} (character {token.start[1] + 1})"
            raise ExpressionError(f"{place} is a comment, which is not allowed; {_ALLOWED}")


def _refuse_depth(tree: ast.AST) -> None:
    """Raises ExpressionError if too many parts of an expression lie within one another."""
    level, depth = [tree], 0
    while level:
        level, depth = [inner for node in level for inner in ast.iter_child_nodes(node)], depth + 1
        if depth > _DEEPEST:
            raise ExpressionError(
                f"more than {_DEEPEST} parts of it lie within one another (not, and, or, parentheses): write it with "
                "fewer levels"
            )


def _parse(node: ast.expr, text: str) -> Expression:
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            return And(tuple(_parse(each, text) for each in values))
        case ast.BoolOp(op=ast.Or(), values=values):
            return Or(tuple(_parse(each, text) for each in values))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return Not(_parse(operand, text))
        case ast.Compare(left=left, ops=operators, comparators=others):
            pairs = zip([left, *others[:-1]], operators, others, strict=True)
            parts = tuple(_compare(*pair, text) for pair in pairs)
            return parts[0] if len(parts) == 1 else And(parts)
    column = _column(node, text)
    if column is None:
        raise _not_allowed(node, text)
    return column


def _compare(left: ast.expr, operator: ast.cmpop, right: ast.expr, text: str) -> Expression:
    if isinstance(operator, ast.In | ast.NotIn):
        member = _member(left, right, text)
        return Not(member) if isinstance(operator, ast.NotIn) else member
    if isinstance(operator, ast.Is | ast.IsNot):
        if not _is_null(right):
            raise ExpressionError(f"{_shown(right, text)} stands after 'is', where only null or 'not null' can stand")
        is_null: Expression = IsNull(_column_or_raise(left, text))
        return Not(is_null) if isinstance(operator, ast.IsNot) else is_null
    for each in (left, right):
        if _is_null(each):
            raise ExpressionError(f"{_shown(each, text)} is compared with {_OPERATORS[type(operator)]}: use 'is null'")
    values = _operand(left, text), _operand(right, text)
    if not any(isinstance(each, Column) for each in values):
        raise ExpressionError(f"{_shown(left, text)} is compared with another constant, not with a column")
    return Comparison(values[0], _OPERATORS[type(operator)], values[1])


def _member(left: ast.expr, right: ast.expr, text: str) -> Expression:
    """Returns what `column in ("a", "b")` means, or `"a" in column`."""
    searched = _column(right, text)
    if searched is None:
        return Member(_column_or_raise(left, text), _constants(right, text))
    value = _operand(left, text)
    if isinstance(value, Column):
        raise ExpressionError(f"{_shown(left, text)} stands before 'in' and a column, where only a constant can stand")
    return Contains(searched, value)


def _constants(node: ast.expr, text: str) -> tuple[Constant, ...]:
    if not isinstance(node, ast.Tuple | ast.List | ast.Set):
        node = ast.Tuple(elts=[node])  # `in ("a")`
    found = tuple(_operand(each, text) for each in node.elts)
    values = tuple(each for each in found if not isinstance(each, Column))
    if len(values) < len(found):
        raise ExpressionError("after 'in' only numbers and texts can stand")
    return values


def _operand(node: ast.expr, text: str) -> Column | Constant:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Name(id=word) if word in _WORDS:
            return _WORDS[word]
    return _column_or_raise(node, text)


def _column_or_raise(node: ast.expr, text: str) -> Column:
    column = _column(node, text)
    if column is None:
        raise _not_allowed(node, text)
    return column


def _column(node: ast.expr, text: str) -> Column | None:
    match node:
        case ast.Name(id=name) if name not in _WORDS and name != "null":
            return Column(name, _place(node, text))
        case ast.Call(func=ast.Name(id="col"), args=[ast.Constant(value=str() as name)], keywords=[]):
            return Column(name, _place(node, text))
    return None


def _is_null(node: ast.expr) -> bool:
    return (isinstance(node, ast.Name) and node.id == "null") or (isinstance(node, ast.Constant) and node.value is None)


def _not_allowed(node: ast.expr, text: str) -> ExpressionError:
    hint = ""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr):
        hint = _hint("&" if isinstance(node.op, ast.BitAnd) else "|", 0)
    elif isinstance(node, ast.Name):
        hint = _hint(node.id, 0)
    return ExpressionError(f"{_shown(node, text)} is not allowed{hint}; {_ALLOWED}")


def _hint(text: str, place: int) -> str:
    """Returns what to write instead of the operator of another language that stands near this place; else ""."""
    for found in re.finditer(r"[=<>&|!]+|[A-Z]+\b", text):
        word = found[0]
        meant = word.lower() if word in _LOWER_CASE else _MEANT.get(word)
        if meant and found.start() <= place <= found.end() + 1:
            return f": write {meant!r} instead of {word!r}"
    return ""


def _shown(node: ast.expr, text: str) -> str:
    segment = ast.get_source_segment(text, node) or ast.unparse(node)
    return f"{segment[:40]!r} (character {_place(node, text)})"


def _place(node: ast.expr, text: str) -> int:
    """Returns where a node stands in the text, in characters from 1. Python's own parser counts bytes."""
    before = node.col_offset if text.isascii() else len(text.encode()[: node.col_offset].decode())
    return before + 1
