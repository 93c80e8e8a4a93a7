"""Print constraints that pin what pyproject.toml asks for to the oldest version it allows.

Without the tools of development, which users never meet.
"""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def main() -> None:
    """A line for each dependency that has a floor."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    training = (ROOT / "training" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    for line in [*project["dependencies"], *(line for line in training if not line.startswith("#"))]:
        wanted = Requirement(line.partition(" #")[0])
        floors = [clause.version for clause in wanted.specifier if clause.operator == ">="]
        if floors:
            print(f"{wanted.name}=={floors[0]}")


if __name__ == "__main__":
    main()
