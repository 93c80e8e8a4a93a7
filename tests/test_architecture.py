"""ARCHITECTURE.md and the code say the same, read from the syntax trees."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

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
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module
            yield node.module
            if node.module.startswith("cloudjob"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_import_is_relative() -> None:
    """Or none of what is said below would hold of it."""
    for module, tree in TREES.items():
        assert not any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree)), module


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


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("--help", 0),
        ("run --help", 0),
        ("status nowhere", 2),
        ("plan --catalog items.json --bbox 1 2 3 4 --dates 2024 --out out", 0),
    ],
)
def test_help_status_and_plan_load_nothing_heavy(
    command: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("items.json").write_text('{"type": "FeatureCollection", "features": []}', encoding="utf-8")
    script = (
        "import sys; from cloudjob import cli; sys.argv[1:] = {!r}\n"
        "try: cli.main()\n"
        "except SystemExit as end: print(end.code, *sorted({!r} & sys.modules.keys()), file=sys.stderr)"
    )
    filled = [sys.executable, "-c", script.format(command.split(), HEAVY)]
    done = subprocess.run(filled, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == str(code), done.stderr


@pytest.mark.parametrize("module", TREES)
def test_nothing_from_training_or_tests(module: str) -> None:
    names = {name.split(".")[0] for name in imported(TREES[module])}
    assert not names & ({"training"} | {path.stem for path in (ROOT / "tests").glob("*.py")} - {"output"})


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
TRAINING = (ROOT / "training" / "requirements.txt").read_text(encoding="utf-8").splitlines()
BY_HAND = {"ukis_csmask"}
"""What a person installs who wants it: a network of others, 150 MB."""


def requirements(lines: Iterable[str]) -> dict[str, Requirement]:
    """Distributions as they are declared, by their names in one spelling."""
    found = [Requirement(each) for line in lines if (each := line.partition("#")[0].strip())]
    return {requirement.name.lower().replace("_", "-"): requirement for requirement in found}


def distributions(module: str) -> set[str]:
    """What a top-level module may have been installed with."""
    return {name.lower().replace("_", "-") for name in providers().get(module, [module])}


providers = cache(importlib.metadata.packages_distributions)


@pytest.mark.parametrize(
    ("folder", "declared"),
    [
        ("cloudjob", PROJECT["dependencies"]),
        ("training", [*PROJECT["dependencies"], *TRAINING]),
        ("tests", [*PROJECT["dependencies"], *TRAINING, *EXTRAS["dev"], *EXTRAS["onnx"]]),
    ],
)
def test_every_import_is_declared(folder: str, declared: list[str]) -> None:
    """By itself: that another dependency brings it along may end with its next version."""
    paths = list((ROOT / folder).rglob("*.py"))
    own = {"cloudjob", "training"} | {path.stem for path in paths}
    for path in paths:
        names = {name.split(".")[0] for name in imported(ast.parse(path.read_text(encoding="utf-8")))}
        for name in names - sys.stdlib_module_names - own - BY_HAND:
            assert distributions(name) & requirements(declared).keys(), f"{path} imports {name}, which is not declared"


def test_what_is_imported_by_its_private_name_has_an_upper_bound() -> None:
    """It may change with any version; the stackstac that is used is a public function and a public protocol."""
    private = {
        name
        for tree in TREES.values()
        for name in imported(tree)
        if not name.startswith("cloudjob") and any(part.startswith("_") for part in name.split(".")) and name[0] != "_"
    }
    assert private == {"dask._task_spec", "rasterio._err"}
    declared = requirements(PROJECT["dependencies"])
    for name in sorted({*private, "stackstac"}):
        (bounded,) = distributions(name.split(".")[0]) & declared.keys()
        assert any(clause.operator == "<" for clause in declared[bounded].specifier), bounded


def test_an_extra_works_from_a_wheel() -> None:
    """What only a checkout has (training, tests) is not promised to whoever installs a wheel."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    for extra, lines in EXTRAS.items():
        assert extra == "dev" or all(name in source for name in requirements(lines)), extra


def test_no_test_waits_longer_than_pytest_lets_it() -> None:
    """Or pytest ends all of the file's tests, and nobody hears what the process had said."""
    pytests = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]
    for path in (ROOT / "tests").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        own = [int(seconds) for seconds in re.findall(r"mark\.timeout\((\d+)\)", text)]
        waits = [int(seconds) for seconds in re.findall(r"(?:timeout=|\.wait\()(\d+)\b(?!_000)", text)]
        assert max(waits, default=0) < max(own, default=pytests["ini_options"]["timeout"]), path


def test_nothing_is_ever_unpickled() -> None:
    for module, tree in TREES.items():
        names = set(imported(tree))
        assert not names & {"pickle", "cloudpickle", "joblib", "dill"}, module
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert "torch.load" not in calls, module
