"""Print constraints that pin what pyproject.toml asks for to the oldest version it allows.

Without the tools of development, which users never meet.
"""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def main() -> None:
    """A line for each dependency that has a floor."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"]["training"]]:
        wanted = Requirement(line)
        floors = [clause.version for clause in wanted.specifier if clause.operator == ">="]
        if floors:
            print(f"{wanted.name}=={floors[0]}")


if __name__ == "__main__":
    main()
