"""What a person sees of an error: what is wrong, what to do about it, and an exit code, but no traceback."""

import sys
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager

import click

from cloudjob.errors import FULL, INTERRUPTED, SPACE, CloudjobError, UnreachableError, UsageError


@contextmanager
def told() -> Iterator[None]:
    """Print the errors that are meant to be read, and end the process with their exit code."""
    try:
        try:
            yield
        except OSError as error:  # Such as of a folder that cannot be made, or a full disk
            if error.errno in FULL:
                raise UnreachableError(str(error), hint=SPACE) from None
            raise UsageError(str(error)) from None
        except RuntimeError as error:
            if "DataLoader worker" not in str(error) and not isinstance(error, BrokenExecutor):
                raise
            raise CloudjobError(
                "a process that prepares samples has ended, killed for its memory perhaps",
                hint="run the same command again, with fewer --workers: it goes on after the last whole epoch",
            ) from None
    except CloudjobError as error:
        click.echo(f"error: {error}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
