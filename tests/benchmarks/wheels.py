"""Wheels for a machine without a network: `python tests/benchmarks/wheels.py --to DIR [--python 3.12] [--there FILE]`.

The folder then holds cloudjob itself and what it needs, in the versions of this environment. `--there` names what that
machine has, as its own `pip freeze` tells: of that only what is too old is brought. Torch never is; at more than 64 MiB
beside it this ends with an error. Over there:

    python3 -m pip install --no-index --no-deps --target SITE DIR/*.whl
    PYTHONPATH=$PWD:SITE python3 tests/benchmarks/gpu.py
"""

import argparse
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical

PROJECT = Path(__file__).parents[2]
LIMIT = 64 << 20
"""Bytes, beside torch."""

GLIBC = range(5, 29)
"""Of platforms manylinux_2_N, of which pip takes each by its name alone."""


def main() -> None:
    """Fetch them, and tell how much they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, required=True, help="folder, made if it is not there")
    parser.add_argument("--python", default="3.12", help="of the other machine [default: 3.12]")
    parser.add_argument("--there", type=Path, help="a file of lines NAME==VERSION, or NAME for any version")
    parser.add_argument("--without", default="", help="what that work can do without, such as bokeh,cryptography")
    parser.add_argument("--slim", action="store_true", help="without tests and debugging symbols; needs `strip`")
    asked = parser.parse_args()
    there = dict.fromkeys(map(canonical, ["torch", *filter(None, asked.without.split(","))]), "")
    for line in asked.there.read_text(encoding="utf-8").splitlines() if asked.there else []:
        name, _, found = line.strip().partition("==")
        there.setdefault(canonical(name), found)
    lacking = {name: version(name) for name in sorted(closure(there, asked.python))}
    asked.to.mkdir(parents=True, exist_ok=True)
    pip(
        *("download", "--no-deps", "--only-binary=:all:", "--python-version", asked.python, "--implementation", "cp"),
        *(part for number in GLIBC for part in ("--platform", f"manylinux_2_{number}_x86_64")),
        *("--platform", "manylinux2014_x86_64", "--platform", "manylinux2010_x86_64", "--dest", str(asked.to)),
        *(f"{name}=={number}" for name, number in lacking.items()),
    )
    for wheel in asked.to.glob("*.whl") if asked.slim else []:
        slim(wheel)
    pip("wheel", "--no-deps", "--wheel-dir", str(asked.to), str(PROJECT))
    sizes = {wheel.name: wheel.stat().st_size for wheel in asked.to.glob("*.whl")}
    for name, size in sorted(sizes.items(), key=lambda one: -one[1]):
        print(f"{size / 2**20:6.2f} MiB  {name}")
    print(f"{sum(sizes.values()) / 2**20:6.2f} MiB in {len(sizes)} wheels")
    if sum(sizes.values()) > LIMIT:
        raise SystemExit(f"more than {LIMIT >> 20} MiB: name what the other machine has (--there)")


def closure(there: dict[str, str], python: str) -> set[str]:
    """Names of all that cloudjob needs on that Python and that is not `there` in a version that will do."""
    told = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting = [Requirement(line) for line in told["dependencies"]]
    lacking: set[str] = set()
    seen: set[str] = set()
    while waiting:
        need = waiting.pop()
        name = canonical(need.name)
        # A name without a version stands for any
        enough = name in there and (not there[name] or need.specifier.contains(there[name], prereleases=True))
        if enough or str(need) in seen:
            continue
        seen.add(str(need))
        lacking.add(name)
        waiting += needs(need, python)
    return lacking


def needs(wanted: Requirement, python: str) -> Iterator[Requirement]:
    """What a package of this environment asks for on that Python."""
    place = {"python_version": python, "python_full_version": f"{python}.0"}
    for need in map(Requirement, requires(wanted.name) or []):
        if not need.marker or any(need.marker.evaluate({**place, "extra": extra}) for extra in ("", *wanted.extras)):
            yield need


def pip(*arguments: str) -> None:
    """Of this environment."""
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True)


def slim(wheel: Path) -> None:
    """Leave out of a wheel what only its makers need, and compress the rest as well as pip can read: a third is left.

    Its list of files still names them; pip, which writes its own, does not mind.
    """
    whole = wheel.rename(wheel.with_suffix(".whole"))
    with zipfile.ZipFile(whole) as read, zipfile.ZipFile(wheel, "w", zipfile.ZIP_LZMA) as written:
        for entry in read.infolist():
            if "/tests/" in entry.filename:
                continue
            data = read.read(entry)
            if ".cpython-" in entry.filename:  # An extension; other libraries were stripped by whoever made them
                with tempfile.NamedTemporaryFile() as file:
                    Path(file.name).write_bytes(data)
                    subprocess.run(["strip", "--strip-debug", file.name], check=True)
                    data = Path(file.name).read_bytes()
            entry.compress_type = zipfile.ZIP_LZMA
            written.writestr(entry, data)
    whole.unlink()


if __name__ == "__main__":
    main()
