"""Packages of third parties that add families, encoders, data sets and extractors.

A plugin is an installed package with an entry point in the group ``t2ibench.plugins``:

    [project.entry-points."t2ibench.plugins"]
    colour_field = "colour_field:ColourField"

Before the colon is the package, whose folder ``conf/`` (beside its ``__init__.py``) joins the
configuration groups; after it the class that it adds. Its classes may be named by ``_target_``.
Nothing of it is imported before a configuration names it.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

GROUP = "t2ibench.plugins"


@dataclass(frozen=True)
class Plugin:
    """A package that extends t2ibench.

    Attributes:
        name: name of the entry point.
        package: top-level package of its classes.
        target: the class that the entry point names, as an import path.
        distribution: name and version of the installed distribution.
        conf: its folder of configurations, or None where it has none.
    """

    name: str
    package: str
    target: str
    distribution: str
    conf: Path | None


@cache
def plugins() -> tuple[Plugin, ...]:
    """Installed plugins by name, found without importing them."""
    found = []
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        package = entry.module.split(".", 1)[0]
        # Of a top-level name only the place is looked up; its code does not run.
        spec = importlib.util.find_spec(package)
        places = [] if spec is None else list(spec.submodule_search_locations or [])
        conf = next((Path(p) / "conf" for p in places if (Path(p) / "conf").is_dir()), None)
        dist = "" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
        target = f"{entry.module}.{entry.attr}" if entry.attr else entry.module
        found.append(Plugin(entry.name, package, target, dist, conf))
    return tuple(found)


def plugin_packages() -> set[str]:
    """Top-level packages of all plugins."""
    return {plugin.package for plugin in plugins()}
