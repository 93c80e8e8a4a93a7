"""Which sources of scenes are out: what hits every scene of one is told early, and never counts against a scene."""

from cloudjob.errors import (
    CloudjobError,
    ContractError,
    KeysMissingError,
    OutsideError,
    PassingError,
    SceneError,
    UnaskedError,
    UnreachableError,
)
from cloudjob.scene.outside import source

PATIENCE = 5
"""So many scenes of one source are tried; if none of them can be read, the source is taken to be out."""


class Sources:
    """What is known in this run of the hosts and buckets that scenes come from."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._answered: set[str] = set()
        self._errors: dict[str, list[SceneError]] = {}

    def answered(self, href: str) -> None:
        """A scene of this source was read, or has a fault of its own."""
        self._answered.add(source(href))

    def failed(self, href: str, error: SceneError) -> None:
        """A scene of this source could not be read."""
        if isinstance(error, OutsideError | PassingError):
            self._errors.setdefault(source(href), []).append(error)
        else:
            self.answered(href)

    def own(self, href: str, error: SceneError) -> bool:
        """Whether an error is the scene's own, as far as is known by now."""
        return not isinstance(error, OutsideError) and not self.out(href)

    def lost(self, href: str) -> SceneError | None:
        """Why no scene of this source need be tried any more in this run, or None."""
        errors = self._errors.get(source(href), [])
        enough = len(errors) >= PATIENCE or any(isinstance(error, KeysMissingError) for error in errors)
        return errors[0] if enough and source(href) not in self._answered else None

    def out(self, href: str) -> bool:
        """Whether no scene of this source could be read, and not for the scenes' own reasons."""
        where = source(href)
        errors = self._errors.get(where, [])
        outside = len(errors) >= PATIENCE or any(isinstance(error, OutsideError | UnaskedError) for error in errors)
        return outside and where not in self._answered

    def verdict(self) -> CloudjobError | None:
        """What a run ends with that has tried everything: an error if a source is out."""
        found = [(where, errors[0]) for where, errors in self._errors.items() if self.out(where)]
        for _, error in found:
            if isinstance(error, KeysMissingError):
                return ContractError(str(error), hint=error.hint)
        for where, error in found:
            return UnreachableError(
                f"no scene of {where or 'this catalog'} can be read ({len(self._errors[where])} tried): {error}",
                hint="what is finished is kept, and no scene is given up for it; run the same command again",
            )
        return None
