"""ARCHITECTURE.md and the code say the same, read from the syntax trees."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache

import pytest
from conftest import ROOT
from packaging.requirements import Requirement

PACKAGE = ROOT / "cloudjob"
TREES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = sorted(TREES.keys() - {"__init__"})
TABLE = dict(
    re.findall(r"^\| `(\w+)` \| (.+) \|$", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"), re.MULTILINE)
)

PURE = ("predict", "unet", "grid", "checkpoint", "receipt", "errors", "simulate")
"""Modules that must not know where arrays come from or go to."""

CARRIERS = {"pystac", "pystac_client", "stackstac", "dask", "distributed", "zarr", "obstore", "xarray"}


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of all modules that a module imports, also within functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module
            yield node.module
            if node.module == "cloudjob":
                yield from (f"cloudjob.{alias.name}" for alias in node.names)


@cache
def ours(module: str) -> frozenset[str]:
    """Modules of the package that a module imports."""
    names = {name.split(".")[1] for name in imported(TREES[module]) if name.startswith("cloudjob.")}
    return frozenset(names & TREES.keys())


def test_the_table_has_every_module_with_the_first_sentence_of_its_docstring() -> None:
    assert {name: first_sentence(TREES[name]) for name in MODULES} == TABLE


def first_sentence(tree: ast.Module) -> str:
    text = " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())
    found = re.match(r".+?\.(?=\s|$)", text)
    assert found, f"no sentence in {text!r}"
    return found[0]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down_only(module: str) -> None:
    order = list(TABLE)
    assert ours(module) <= set(order[order.index(module) + 1 :])


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_know_no_stac_dask_or_zarr(module: str) -> None:
    reached, new = set[str](), {module}
    while new:
        reached |= new
        new = {name for each in new for name in ours(each)} - reached
    foreign = {name.split(".")[0] for each in reached for name in imported(TREES[each])}
    assert not foreign & CARRIERS


@pytest.mark.parametrize("module", TREES)
def test_nothing_from_training_or_tests(module: str) -> None:
    names = {name.split(".")[0] for name in imported(TREES[module])}
    assert not names & ({"training"} | {path.stem for path in (ROOT / "tests").glob("*.py")} - {"output"})


def test_every_import_is_installed_with_the_package() -> None:
    """Without the development extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted, known = [Requirement(line) for line in project["dependencies"]], set[tuple[str, str]]()
    while wanted:
        requirement = wanted.pop()
        name = requirement.name.lower().replace("_", "-")
        for extra in ("", *requirement.extras):
            if (name, extra) not in known:
                known.add((name, extra))
                needs = [Requirement(line) for line in importlib.metadata.requires(name) or []]
                wanted += [one for one in needs if one.marker is None or one.marker.evaluate({"extra": extra})]
    installed = {name for name, _ in known}
    providers = importlib.metadata.packages_distributions()
    for module, tree in TREES.items():
        for name in {name.split(".")[0] for name in imported(tree)} - sys.stdlib_module_names - {"cloudjob"}:
            owners = {owner.lower().replace("_", "-") for owner in providers[name]}
            assert owners & installed, f"{module} imports {name}, which is no dependency"


def test_nothing_is_ever_unpickled() -> None:
    for module, tree in TREES.items():
        names = set(imported(tree))
        assert not names & {"pickle", "cloudpickle", "joblib", "dill"}, module
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert "torch.load" not in calls, module
