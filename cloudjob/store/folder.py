"""A folder that holds an output: whatever lies in it, nothing outside it is touched.

A folder may come from anybody. So no symbolic link below it is followed, to write, to delete or to list; only files
with names that cloudjob gives are deleted; and a pipe or a folder in the place of a file is an error, not a wait.
(Somebody who may write there while cloudjob runs can still swap a folder for a link between look and write.)
"""

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from cloudjob.errors import ContractError

LARGEST = 256 * 2**20
"""Bytes of a document of an OUT that are read; an index of 100,000 scenes has 60 MB."""

_STAGED = r"#\d+$"  # obstore writes NAME#1, then renames it
_HIDDEN = re.compile(rf"\.|.*{_STAGED}")  # And .DS_Store, .nfs0000: nobody's fault
_OURS = re.compile(r"\d+|.+\.json|index\.html")
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.ENOENT)
"""Of file systems that sync nothing, or no folders; of a folder that may be written but not read; of what is gone, for
another run has taken over."""
_COG = re.compile(r"cogs/[^/]+/[^/]+\.tif")


def is_ours(path: str) -> bool:
    """Whether a file, by its path in an output, has a name that cloudjob, or Zarr for it, gives."""
    return is_cog(path) or _OURS.fullmatch(re.sub(_STAGED, "", path.rsplit("/", 1)[-1])) is not None


def is_cog(path: str) -> bool:
    """Whether a file, by its path in an output, is one of `store.cog`'s."""
    return _COG.fullmatch(re.sub(_STAGED, "", path)) is not None


def within(root: Path, path: str) -> Path:
    """The place of `path` below `root`, which may be a link itself.

    Raises:
        ContractError: the path leaves the folder, or a part of it is a symbolic link.
    """
    place = root
    for part in PurePosixPath(path).parts:
        if part in ("/", ".."):
            raise ContractError(f"{path!r} leads out of {root}")
        place /= part
        if place.is_symlink():
            raise ContractError(
                f"{place} is a symbolic link: nothing is written, deleted or read through one",
                hint="move what it points to into its place; the output's folder itself may be a link",
            )
    return place


def writable(root: Path, path: str) -> Path:
    """The place of a file that may be written at `path`.

    Raises:
        ContractError: see `within`; or there is a folder.
    """
    place = within(root, path)
    if place.is_dir():
        raise _no_file(place)
    return place


def readable(root: Path, path: str) -> None:
    """Make sure that what lies at `path`, if there is anything, is a file: a pipe would be waited for.

    Raises:
        ContractError: see `within`; or it is none.
    """
    place = within(root, path)
    with suppress(FileNotFoundError, NotADirectoryError):
        if not stat.S_ISREG(place.lstat().st_mode):
            raise _no_file(place)


def read(root: Path, path: str) -> bytes | None:
    """The file's bytes, or None where there is none.

    Raises:
        ContractError: see `within`; it is no file, or too large.
        OSError: it cannot be read.
    """
    place = within(root, path)
    try:
        opened = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # A pipe would be waited for
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ENXIO:  # A socket
            raise _no_file(place) from None
        raise
    try:
        state = os.fstat(opened)
        if not stat.S_ISREG(state.st_mode):
            raise _no_file(place)
        check_size(str(place), state.st_size)
        with os.fdopen(opened, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(opened)


def check_size(name: str, size: int) -> None:
    """Make sure that a document is small enough to be read.

    Raises:
        ContractError: it is not.
    """
    if size > LARGEST:
        raise ContractError(f"{name} has {size:,} bytes; no document of cloudjob's has more than {LARGEST:,}")


def files(root: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    """Path and state of all files below a prefix; hidden ones and those that are being written are left out."""
    for path, entry in _walk(root, prefix):
        if not _HIDDEN.match(entry.name):
            with suppress(FileNotFoundError):  # Deleted meanwhile
                yield path, entry.stat(follow_symlinks=False)


def names(root: Path, prefix: str) -> set[str]:
    """Names of all that lies directly below a prefix, hidden ones left out."""
    try:
        return {each.name for each in within(root, prefix).iterdir() if not _HIDDEN.match(each.name)}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def oddities(root: Path) -> list[str]:
    """Paths below a folder of all that is neither file nor folder."""
    found = []
    for parent, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(parent, name)
            with suppress(FileNotFoundError):  # Renamed or deleted meanwhile
                if not stat.S_ISREG(mode := path.lstat().st_mode) and not stat.S_ISDIR(mode):
                    found.append(path.relative_to(root).as_posix())
    return sorted(found)


def settle(root: Path, path: str) -> None:
    """Have a file, and its name, on the disk before what relies on it is written: a power cut takes back what is not.

    Raises:
        OSError: the disk does not take it.
    """
    for place in (root / path, (root / path).parent):
        try:
            opened = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise


def blocked(root: Path, path: str) -> str:
    """What is wrong where something lies at `path` that is no folder, below which nothing can be written; else ""."""
    place = root / path
    with suppress(FileNotFoundError, NotADirectoryError):
        if not stat.S_ISDIR(mode := place.lstat().st_mode):
            return f"{place} is {'a symbolic link' if stat.S_ISLNK(mode) else 'no folder'}"
    return ""


def reserve(root: Path, path: str) -> bool:
    """Make an empty file where there is nothing yet: False where there is something."""
    place = within(root, path)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        place.open("xb").close()
    except FileExistsError:
        return False
    return True


def delete(root: Path, path: str) -> None:
    """Delete a file, if there is one; errors are those of `writable`."""
    with suppress(FileNotFoundError, NotADirectoryError):
        writable(root, path).unlink()


def delete_under(root: Path, prefix: str, allowed: Callable[[], None]) -> None:
    """Delete the files below a prefix that have names of ours, and the folders that are empty then."""
    for path, entry in _walk(root, prefix):
        if is_ours(path):
            allowed()
            with suppress(FileNotFoundError):
                os.unlink(entry.path)  # noqa: PTH108
    for folder, *_ in os.walk(within(root, prefix), topdown=False):
        with suppress(OSError):  # It is not empty
            os.rmdir(folder)  # noqa: PTH106


def sweep(root: Path, prefix: str, keep: Iterable[str], *, deep: bool) -> None:
    """Delete what interrupted writes left: files of ours that were not renamed."""
    for path, entry in _walk(root, prefix, set(keep), deep=deep):
        if re.search(_STAGED, entry.name) and is_ours(path):
            with suppress(FileNotFoundError, PermissionError):  # Another user's stays, and harms nobody
                os.unlink(entry.path)  # noqa: PTH108


def _walk(
    root: Path, prefix: str, keep: Iterable[str] = (), *, deep: bool = True
) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Path and entry of every file below a prefix, never through a link."""
    try:
        entries = sorted(os.scandir(within(root, prefix)), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        path = f"{prefix}/{entry.name}".lstrip("/")
        if entry.is_file(follow_symlinks=False):
            yield path, entry
        elif deep and entry.is_dir(follow_symlinks=False) and path not in keep:
            yield from _walk(root, path, keep)


def _no_file(place: Path) -> ContractError:
    return ContractError(f"{place} is no file", hint="move it away: a file of cloudjob's belongs there")
