"""Asynchronous generators: the package closes each that it starts, and the suite would notice one that it does not."""

from __future__ import annotations

import ast
import asyncio
import gc
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import uvloop

import datago_gpu
from tests import conftest

PACKAGE = Path(datago_gpu.__file__).parent
KEPT: list[AsyncGenerator[int, None]] = []


async def numbers() -> AsyncGenerator[int, None]:
    yield 1
    yield 2


async def left_half_way() -> None:
    async for _ in numbers():
        break


async def left_in_a_cycle() -> None:
    cycle: list[object] = [numbers()]
    cycle.append(cycle)
    await anext(cycle[0])  # type: ignore[call-overload]
    del cycle
    gc.collect()


async def kept() -> None:
    KEPT.append(numbers())
    await anext(KEPT[-1])


async def closed() -> None:
    async with aclosing(numbers()) as found:
        await anext(found)
    KEPT.append(numbers())
    assert [number async for number in KEPT[-1]] == [1, 2]


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize(
    ("work", "how"),
    [
        (left_half_way, ["garbage collector"]),
        (left_in_a_cycle, ["garbage collector"]),
        (kept, ["open when its loop ended"]),
        (closed, []),
    ],
)
def test_the_suite_notices_one_that_is_left_open(
    factory: Callable[[], asyncio.AbstractEventLoop], work: Callable[[], object], how: list[str]
) -> None:
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(work())  # type: ignore[arg-type]
    KEPT.clear()
    left = conftest._left_open.copy()
    conftest._left_open.clear()
    assert len(left) == len(how)
    assert all(word in said and said.startswith("numbers (") for said, word in zip(left, how, strict=True))


def iterated(tree: ast.AST) -> Iterator[ast.expr]:
    """What is iterated over asynchronously."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFor) or (isinstance(node, ast.comprehension) and node.is_async):
            yield node.iter


def closing(tree: ast.AST) -> set[str]:
    """The names that `async with aclosing(...) as NAME` binds."""
    items = [item for node in ast.walk(tree) if isinstance(node, ast.AsyncWith) for item in node.items]
    return {
        ast.unparse(item.optional_vars)
        for item in items
        if item.optional_vars and ast.unparse(item.context_expr).startswith("aclosing(")
    }


def test_the_package_iterates_only_over_what_it_closes() -> None:
    functions = [
        (path, node)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.AsyncFunctionDef)
    ]
    found = [
        (path.name, function.name, ast.unparse(each))
        for path, function in functions
        for each in iterated(function)
        if ast.unparse(each) not in closing(function)
    ]
    assert found == []
