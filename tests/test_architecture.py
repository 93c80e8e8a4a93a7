"""ARCHITECTURE.md and the code say the same, read from the syntax trees."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache

import pytest
from conftest import ROOT
from packaging.requirements import Requirement

PACKAGE = ROOT / "cloudjob"
TREES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
        path.read_text(encoding="utf-8")
    )
    for path in sorted(PACKAGE.rglob("*.py"))
}
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
MODULES = sorted(TREES.keys() - {"__init__", *ROOMS})
PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
TABLE = dict(re.findall(r"^\| `([\w.]+)` \| (.+) \|$", PAGE, re.MULTILINE))
ORDER = re.findall(r"^\| `(\w+)/` \| .+ \|$", PAGE, re.MULTILINE)
"""Rooms from top to bottom."""

PURE = ("model.predict", "model.unet", "model.checkpoint", "grid", "store.receipt", "errors", "demo.simulate")
"""Modules that must not know where arrays come from or go to."""

CARRIERS = {"pystac", "pystac_client", "stackstac", "dask", "distributed", "zarr", "obstore", "xarray"}
HEAVY = {"torch", "dask", "distributed", "stackstac"}
"""What takes seconds to import."""


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of all modules that a module imports, also within functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module
            yield node.module
            if node.module.startswith("cloudjob"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def ours(module: str) -> frozenset[str]:
    """Modules of the package that a module imports."""
    names = {name.removeprefix("cloudjob.") for name in imported(TREES[module]) if name.startswith("cloudjob.")}
    return frozenset(names & set(MODULES))


def room(module: str) -> str:
    return module.split(".", maxsplit=1)[0] if "." in module else ""


def first_sentence(tree: ast.Module) -> str:
    text = " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())
    found = re.match(r".+?\.(?=\s|$)", text)
    assert found, f"no sentence in {text!r}"
    return found[0]


def test_the_page_has_every_module_with_the_first_sentence_of_its_docstring() -> None:
    assert {name: first_sentence(TREES[name]) for name in MODULES} == TABLE


def test_the_page_has_every_room_with_the_first_sentence_of_its_docstring() -> None:
    told = dict(re.findall(r"^\| `(\w+)/` \| (.+) \|$", PAGE, re.MULTILINE))
    assert {name: first_sentence(TREES[name]) for name in ROOMS} == told


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down_only(module: str) -> None:
    """Down the list of modules, and from a room to rooms below it; nothing in a room knows what lies on top of all."""
    listed = list(TABLE)
    assert ours(module) <= set(listed[listed.index(module) + 1 :])
    rooms = {room(name) for name in ours(module)} - {"", room(module)}
    if room(module):
        assert rooms <= set(ORDER[ORDER.index(room(module)) + 1 :])


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_says_what_others_may_use_of_it_and_loads_nothing(name: str) -> None:
    """Its list is what they do use, no more and no less."""
    docstring, *rest = TREES[name].body
    assert isinstance(docstring, ast.Expr)
    (listed,) = rest
    assert isinstance(listed, ast.Assign)
    assert ast.unparse(listed.targets[0]) == "__all__"
    used = {module for other in MODULES if room(other) != name for module in ours(other) if room(module) == name}
    assert sorted(used) == [f"{name}.{each}" for each in ast.literal_eval(listed.value)]


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_know_no_stac_dask_or_zarr(module: str) -> None:
    assert not reached(module) & CARRIERS


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) in ("plan", "report", "watch")])
def test_planning_and_watching_need_neither_torch_nor_dask_nor_stackstac(module: str) -> None:
    """`report` opens files with rasterio; `metrics` watches a client, whose type it names."""
    assert not reached(module) & (HEAVY - ({"distributed"} if module == "watch.metrics" else set()))


def reached(module: str) -> set[str]:
    """Packages of others that a module needs, itself or through ours."""
    seen, new = set[str](), {module}
    while new:
        seen |= new
        new = {name for each in new for name in ours(each)} - seen
    return {name.split(".")[0] for each in seen for name in imported(TREES[each])}


@pytest.mark.parametrize("command", [["--help"], ["status", "nowhere"], ["plan", "--help"]])
def test_help_and_status_load_nothing_heavy(command: list[str]) -> None:
    script = (
        "import sys; from cloudjob import cli; sys.argv[1:] = {!r}\n"
        "try: cli.main()\nexcept SystemExit: print(*sorted({!r} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script.format(command, HEAVY)], capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(done.stderr.split())


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
