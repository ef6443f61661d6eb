"""The rooms of the package: imports go down from floor to floor, and no file lies outside."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import datago_gpu

PACKAGE = Path(datago_gpu.__file__).parent
FLOORS = [
    ["cli"],
    ["doctor"],
    ["preview", "compat", "index", "metrics"],
    ["lightning", "huggingface"],
    ["torch", "jax", "ray"],
    ["loader", "server"],
    ["feeder"],
    ["plan"],
    ["sources", "decoders"],
    ["config"],
    ["imaging", "batch", "row"],
    ["batch_sample"],
    ["arrays", "eventloop", "interpreter", "points", "system", "views"],
    ["errors", "tracing"],
    ["framing", "redact", "units", "heap", "draws", "wait"],
]
"""From the top down. A room may import what lies on lower floors, and itself."""
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imported(path: Path) -> Iterator[str]:
    """The modules of this package that a file imports, wherever in the file, but for the type checker alone."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "datago_gpu":
            yield from (f"datago_gpu.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("datago_gpu."):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("datago_gpu."))


@pytest.mark.parametrize("file", [file for file in FILES if file != "__init__.py"])
def test_imports_go_down(file: str) -> None:
    own = file.removesuffix(".py").split("/")[0]
    for module in imported(PACKAGE / file):
        room = room_of(module)
        assert room in FLOOR_OF, f"{module} is in no room"
        assert room == own or FLOOR_OF[room] > FLOOR_OF[own], f"{file} imports {module}, which lies above it"


def test_no_file_name_occurs_twice() -> None:
    names = Counter(Path(file).name for file in FILES)
    assert {name for name, count in names.items() if count > 1} == {"__init__.py", "__main__.py"}


def test_each_room_has_its_floor() -> None:
    assert {file.removesuffix(".py").split("/")[0] for file in FILES} - {"__init__"} == set(FLOOR_OF)
