"""The code behind a step as one digest: the modules that imports lead to from where the step starts.

Comments, docstrings and layout do not count. Which modules compute nothing and are left out is for the caller to say.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

PACKAGE = "hermesflow"
ROOT = Path(__file__).parents[1]


@cache
def modules_of(roots: tuple[str, ...], left_out: tuple[str, ...] = (), kept: tuple[str, ...] = ()) -> tuple[Path, ...]:
    """Source files that run where some modules are imported: theirs and those of all they import, sorted.

    Args:
        roots: modules to start from; a package stands for all its modules. Names of no module are passed over.
        left_out: modules and packages that neither count nor are followed.
        kept: modules that count all the same.
    """
    reached: dict[str, Path] = {}
    queue = [name for root in roots for name in (root, *_modules_in(root))]
    while queue:
        name = queue.pop()
        path = path_of(name)
        if path is None or name in reached or (name not in kept and _is_within(name, left_out)):
            continue
        reached[name] = path
        queue += [*imports_of(path), name.rpartition(".")[0]]
    return tuple(sorted(reached.values()))


@cache
def digest_of_code(paths: tuple[Path, ...]) -> str:
    """Digest of source files of this package."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.relative_to(ROOT).as_posix().encode() + _code(path).encode())
    return total.hexdigest()[:16]


@cache
def imports_of(path: Path) -> tuple[str, ...]:
    """Names of this package's modules that a source file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return tuple(sorted(n for n in names if n.split(".")[0] == PACKAGE and path_of(n) is not None))


def path_of(module: str) -> Path | None:
    """File of a module of this package; None if there is none of that name."""
    parts = module.split(".")
    if parts[0] != PACKAGE:
        return None
    stem = ROOT.joinpath(*parts[1:])
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if path.is_file():
            return path
    return None


def _modules_in(package: str) -> list[str]:
    folder = ROOT.joinpath(*package.split(".")[1:])
    files = sorted(folder.rglob("*.py")) if (folder / "__init__.py").is_file() else []
    return [".".join((PACKAGE, *path.relative_to(ROOT).with_suffix("").parts)) for path in files]


def _is_within(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


@cache
def _code(path: Path) -> str:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [n for n in body if not _is_docstring(n)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
