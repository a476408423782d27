"""Plug-ins of a package: modules found by their files and imported by name, so that no importer has to name them."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from functools import cache
from typing import Any


@cache
def names(package: str) -> tuple[str, ...]:
    """Names of the modules and packages in a package's folder, sorted; nothing of them is imported.

    Those that begin with an underscore are left out.
    """
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    return tuple(sorted(one.name for one in pkgutil.iter_modules(folders or ()) if not one.name.startswith("_")))


def load(package: str, name: str, attribute: str) -> Any:
    """What a plug-in declares under a name.

    Args:
        package: dotted name of the package.
        name: of the module in it.
        attribute: of the module.

    Raises:
        ImportError: there is no such module, or it declares nothing under that name.
    """
    module = importlib.import_module(f"{package}.{name}")
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise ImportError(f"{module.__file__}: every module of {package} declares {attribute}; add it.") from None
