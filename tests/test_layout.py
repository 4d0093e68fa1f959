"""The layout of the package: imports point downwards, and private modules have an underscore."""

import ast
import graphlib
import importlib.util
from pathlib import Path

import pytest

import sklearn_ssl

PACKAGE = Path(sklearn_ssl.__file__).parent
# From the top down: a module imports from its own folder and from those below it.
FLOORS = (
    ("__init__", "testing"),
    ("_displays", "_scorers", "_splits", "_together"),
    ("_embedder",),
    ("_callbacks", "_evaluation", "_fit", "_scores", "_transform"),
    ("_settings",),
    ("_training",),
    ("_views",),
    ("_models",),
    ("losses",),
    ("_networks",),
    ("augment",),
    ("_images",),
    ("_distributed",),
    ("_hardware",),
    (
        "_checks",
        "_documentation",
        "_filesystem",
        "_hashing",
        "_labels",
        "_params",
        "_prefetch",
        "_warnings",
        "metrics",
    ),
)
FLOOR_OF = {room: len(FLOORS) - i for i, rooms in enumerate(FLOORS) for room in rooms}
PUBLIC = {"__init__", "augment", "losses", "metrics", "testing"}


def modules() -> dict[str, Path]:
    """Return the path of each module by its dotted name below `sklearn_ssl`."""
    paths = {path: path.relative_to(PACKAGE).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    return {".".join(parts).removesuffix(".__init__"): path for path, parts in paths.items()}


def imports_of(path: Path, known: dict[str, Path]) -> set[str]:
    """Return the modules of the package that a module imports, including imports for type checkers."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}".removeprefix("sklearn_ssl.") for alias in node.names}
            found |= {f"sklearn_ssl.{name}" if name in known else node.module for name in names}
    ours = {name for name in found if name.partition(".")[0] == "sklearn_ssl"}
    return {name.partition(".")[2] or "__init__" for name in ours}


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imports_of(path, known) - {name} for name, path in known.items()}


def room(module: str) -> str:
    return module.partition(".")[0]


def test_imports_point_downwards():
    upwards = [
        f"{module} -> {other}"
        for module, others in graph().items()
        for other in sorted(others)
        if FLOOR_OF[room(other)] > FLOOR_OF[room(module)]
    ]
    assert upwards == []


def test_no_import_leads_back():
    graphlib.TopologicalSorter(graph()).prepare()  # CycleError names the modules


def test_everything_outside_of_the_public_doors_has_an_underscore():
    public = {module for module in modules() if not any(part.startswith("_") for part in module.split("."))}
    assert public | {"__init__"} == PUBLIC


@pytest.mark.parametrize("door", sorted(PUBLIC))
def test_what_a_door_lists_is_there(door):
    module = importlib.import_module("sklearn_ssl" if door == "__init__" else f"sklearn_ssl.{door}")
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    assert len(set(module.__all__)) == len(module.__all__)


PROGRAMS = [*PACKAGE.parent.glob("benchmarks/*.py"), *PACKAGE.parent.glob("examples/*.py")]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_what_a_program_imports_of_ours_is_there(path):
    """Imports are also checked in programs that cannot run without another library."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    for node in nodes:
        if node.module.partition(".")[0] == "sklearn_ssl":
            module = importlib.import_module(node.module)
            for alias in node.names:  # of a folder, modules too
                assert hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}")
