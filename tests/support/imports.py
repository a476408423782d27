"""What modules of the package import, for type checkers too."""

import ast
import importlib.util

from hermesflow.core import provenance


def imports_of(module):
    """Names of the package's modules that a module imports, inside functions too."""
    path = provenance.path_of(module)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
    return sorted(name for name in names if name.partition(".")[0] == "hermesflow" and provenance.path_of(name))
