"""What a person sees of an error: what is wrong, what to do about it, and an exit code, but no traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from cloudjob.errors import USAGE, CloudjobError


@contextmanager
def told() -> Iterator[None]:
    """Print the errors that are meant to be read, and end the process with their exit code."""
    try:
        yield
    except CloudjobError as error:
        click.echo(f"error: {error}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # Such as of a folder that cannot be made, or a full disk
        click.echo(f"error: {error}", err=True)
        sys.exit(USAGE)
