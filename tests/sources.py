"""The library's own source, read but not imported."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "lorank"
MODULES = sorted(PACKAGE.rglob("*.py"))


class Import(NamedTuple):
    """``module`` is imported by ``path``, a path inside the package, on a line."""

    path: str
    line: int
    module: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.module}"


def inside(path: Path) -> str:
    """``nn/linear.py`` for a module of the package."""
    return path.relative_to(PACKAGE).as_posix()


def room(module: str) -> str:
    """``nn`` for ``lorank.nn.linear``; the face, ``lorank`` itself, is ``""``."""
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> list[Import]:
    """Every module that a file imports, at its top or inside a function, or asks ``extra`` for."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        Import(inside(path), node.lineno, module)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Call))
        for module in _modules(node, path)
    ]


def _modules(node: ast.Import | ast.ImportFrom | ast.Call, path: Path) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            folder = ("lorank", *path.relative_to(PACKAGE).parts)[: -node.level]
            base = ".".join([*folder, *([base] if base else [])])
        # "from lorank import nn" imports a room, and "from lorank import measure" the face.
        rooms = [a.name for a in node.names if base == "lorank" and _is_room(a.name)]
        yield from (f"lorank.{name}" for name in rooms)
        if len(rooms) < len(node.names):
            yield base
    elif isinstance(node.func, (ast.Name, ast.Attribute)) and node.args:
        called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        if called in ("extra", "import_module") and isinstance(node.args[0], ast.Constant):
            yield str(node.args[0].value)


def _is_room(name: str) -> bool:
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()
