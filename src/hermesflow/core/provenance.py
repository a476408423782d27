"""The code behind a step as one digest: the modules that imports lead to from where the step starts.

Comments, docstrings and layout do not count. Which modules compute nothing and are left out, and where names lead that
are looked up at run time, is for the caller to say.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TypeAlias

PACKAGE = "hermesflow"
ROOT = Path(__file__).parents[1]
Modules: TypeAlias = tuple[tuple[str, Path], ...]
"""Names and source files."""


@cache
def modules_of(
    roots: tuple[str, ...],
    left_out: tuple[str, ...] = (),
    exceptions: tuple[str, ...] = (),
    chosen: tuple[tuple[str, str], ...] = (),
    declared: tuple[str, ...] = (),
) -> Modules:
    """Modules that run where some are imported: they and all they import, sorted by name.

    Of other packages than this one, those that `roots` and `chosen` name modules of are followed too.

    Args:
        roots: modules to start from. Names of no module are passed over.
        left_out: modules and packages that neither count nor are followed.
        exceptions: modules that count all the same.
        chosen: names of functions with a module that calling them imports.
        declared: modules of which the functions do not run, only what they declare; imports inside of functions are
            passed over.
    """
    packages = {PACKAGE, *map(_package_of, (*roots, *(module for _, module in chosen)))}
    reached: dict[str, Path] = {}
    queue = list(roots)
    while queue:
        name = queue.pop()
        queue += [module for function, module in chosen if function == name and module not in reached]
        path = path_of(name) if _package_of(name) in packages else None
        if path is None or name in reached or (name not in exceptions and _is_within(name, left_out)):
            continue
        reached[name] = path
        queue += [*_imported(name, name not in declared), *([parent] if (parent := name.rpartition(".")[0]) else [])]
    return tuple(sorted(reached.items()))


@cache
def digest_of_code(modules: Modules) -> str:
    """Digest of the code of some modules."""
    total = hashlib.sha256()
    for name, path in modules:
        total.update(name.encode() + _parsed(path)[1].encode())
    return total.hexdigest()[:16]


@cache
def path_of(module: str) -> Path | None:
    """Source file of a module; None if there is none of that name."""
    first, *parts = module.split(".")
    if first != PACKAGE:
        return _path_elsewhere(module)
    stem = ROOT.joinpath(*parts)
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if path.is_file():
            return path
    return None


def _path_elsewhere(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


@cache
def _imported(module: str, functions: bool = True) -> tuple[str, ...]:
    """What a module imports: modules, and names from modules; inside of functions if asked."""
    if (path := path_of(module)) is None:
        return ()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in _parsed(path)[0][functions]:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
    return tuple(sorted(names))


def _nodes(tree: ast.AST, functions: bool) -> Iterator[ast.AST]:
    """A syntax tree's statements without those of `if TYPE_CHECKING`, and those in functions only if asked for."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, (ast.stmt, ast.excepthandler, ast.match_case)):
            continue
        if isinstance(node, ast.FunctionDef) and not functions:
            continue
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node = ast.Module(node.orelse, [])
        yield node
        yield from _nodes(node, functions)


def _package_of(module: str) -> str:
    return module.partition(".")[0]


def _is_within(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


@cache
def _parsed(path: Path) -> tuple[list[list[ast.Import | ast.ImportFrom]], str]:
    """Import statements of a file, without and with those inside of functions, and its code without docstrings."""
    tree = ast.parse(path.read_text())
    imports = [
        [node for node in _nodes(tree, functions) if isinstance(node, (ast.Import, ast.ImportFrom))]
        for functions in (False, True)
    ]
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [n for n in body if not _is_docstring(n)]  # type: ignore[attr-defined]
    return imports, ast.dump(tree)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
