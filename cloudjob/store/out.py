"""Where the output lies: a folder or a prefix of an object store, through one library (obstore)."""

import asyncio
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from errno import EACCES, EEXIST, ENOTDIR, EPERM, EROFS
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore import exceptions
from obstore.store import LocalStore, ObjectStore
from zarr.storage import ObjectStore as ZarrStore

from cloudjob.errors import FULL, SPACE, ContractError, UnreachableError, UsageError, redact
from cloudjob.store import bucket
from cloudjob.store import folder as folders
from cloudjob.store.document import ODD, dump, parse

_SCHEMES = ("s3", "gs", "az")

_HINTS = {
    **dict.fromkeys((EEXIST, ENOTDIR), "something that is no folder lies there, or above it: choose another --out"),
    **dict.fromkeys((EPERM, EACCES), "check who owns the folder"),
    EROFS: "its disk is read-only: mounted so, or made so by the kernel when it failed (`dmesg` tells)",
}
"""What to do about what a file system says."""

_KEYS = re.compile(
    "<Code>(ExpiredToken|InvalidAccessKeyId|InvalidToken|RequestTimeTooSkewed|SignatureDoesNotMatch"
    "|TokenRefreshRequired)<"
)
"""What Amazon says of keys that are no good (any more), or not at the time that this machine's clock says."""

Of = TypeVar("Of")
Answer = TypeVar("Answer")
_AT_ONCE = 64
"""Requests in flight when many small objects are read. A bucket answers one in 20 to 50 ms: 6,000 took 9 s by sixteen
(20 ms, 2 cores), 3 s so, and 2.4 s by twice as many."""


class DeniedError(UnreachableError):
    """A part of a folder may not be written, or read, by this user: of others that says nothing."""


@dataclass(frozen=True)
class Out:
    """The output's location. Only the address travels to workers: each finds the credentials in its own environment.

    All that reads or writes there raises an `UnreachableError` where the store does not answer, and, of what takes a
    `Lock`, where that is lost: elsewhere in this room docstrings name other errors only.

    Attributes:
        address: absolute path of a folder, or s3://, gs:// or az:// with bucket and prefix.
    """

    address: str

    @classmethod
    def at(cls, address: str | Path) -> "Out":
        """The output at a folder, which need not exist yet, or at an object store's prefix.

        Raises:
            UsageError: the address is empty, of an unknown kind, or carries credentials; a file lies there.
        """
        if not isinstance(address, str | os.PathLike):
            raise UsageError(f"the output is {address!r}; expected a folder or an address such as s3://BUCKET/PREFIX")
        text = str(address)
        parts = urlsplit(text)
        if "://" not in text and parts.scheme not in _SCHEMES:  # s3:/BUCKET is a slip, not a folder
            if not text:
                raise UsageError("the output's address is empty", hint="--out FOLDER or --out s3://BUCKET/PREFIX")
            return cls(_folder(Path(text).expanduser().absolute()))
        if parts.scheme == "file":
            return cls(_folder(Path(url2pathname(parts.path)).absolute()))
        if parts.scheme not in _SCHEMES or not parts.netloc:
            kinds = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
            raise UsageError(f"cannot write to {redact(text)}", hint=f"--out is a folder or an address with {kinds}")
        if parts.query or parts.username or parts.password or parts.fragment:
            raise UsageError(
                f"the output's address {redact(text)} carries more than bucket and prefix",
                hint="credentials are read from the environment, such as AWS_ACCESS_KEY_ID, or from the machine's role",
            )
        return cls(text.rstrip("/"))

    def __str__(self) -> str:
        return self.address

    def __getstate__(self) -> dict[str, str]:
        return {"address": self.address}  # Not the opened store, which may hold credentials

    @property
    def folder(self) -> Path | None:
        """The folder, or None for an object store."""
        return None if "://" in self.address else Path(self.address)

    @cached_property
    def store(self) -> ObjectStore:
        """The opened store. A folder is made: read through the methods below to leave no trace."""
        with self.reached():
            return LocalStore(self.folder, mkdir=True) if self.folder else bucket.opened(self.address)

    def zarr(self, path: str) -> ZarrStore[ObjectStore]:
        """What lies at a path as a Zarr store.

        Raises:
            ContractError: it lies behind a link.
        """
        with self.reached():
            if self.folder:
                folders.within(self.folder, path)
        return _Zarr(Out(f"{self}/{path}").store, root=self.folder, prefix=path)

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Turn what the store says when it does not answer, refuses or is full into an `UnreachableError`.

        All of these end with the code for "retry": the command may well be right, and works once somebody has mended
        the store.
        """
        try:
            yield
        except (exceptions.BaseError, OSError) as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> UnreachableError:
        # The first line says it. What follows is for the library's authors, and what a bucket answers quotes the key.
        text = redact((str(error) or type(error).__name__).splitlines()[0].split("<")[0])
        denied = isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError)
        why = _KEYS.search(str(error))
        if denied or why or ": 401 " in text or ": 403 " in text:
            skewed = why and why[1] == "RequestTimeTooSkewed"
            clock = f"this machine's clock says {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: set it"
            return UnreachableError(
                f"{self}: access denied{f': {why[1]}' if why else ''}",
                hint=clock if skewed else "check the credentials in the environment and what they may do there",
            )
        found = re.search(r"\b(?:os error|Errno) (\d+)\b", text)
        number = int(found[1]) if found else 0
        if number in FULL:
            return UnreachableError(f"{self} is full: {text}", hint=SPACE)
        if number in _HINTS:
            kind = DeniedError if number in (EPERM, EACCES) else UnreachableError
            return kind(f"{self} cannot be written or read: {text}", hint=_HINTS[number])
        if ": 404 " in text:  # Of a missing object obstore says so otherwise
            return UnreachableError(f"{self}: there is no such bucket", hint="create it, or correct --out")
        return UnreachableError(f"{self} cannot be reached: {text}")

    def get(self, path: str) -> bytes | None:
        """The object's bytes, or None where there is none.

        Raises:
            ContractError: it is no file, lies behind a link, or is larger than any document of ours.
        """
        with self.reached():
            if self.folder:
                return folders.read(self.folder, path)
            try:
                return bucket.whole(lambda: self._get(path))
            except FileNotFoundError:
                return None

    def _get(self, path: str) -> bytes:
        found = obstore.get(self.store, path)
        folders.check_size(f"{self}/{path}", found.meta["size"])
        return bytes(found.bytes())

    def get_json(self, path: str) -> Any:
        """The object as JSON, or None where there is none.

        Raises:
            ValueError: it is not JSON.
        """
        data = self.get(path)
        return None if data is None else parse(data)

    @staticmethod
    def each(ask: Callable[[Of], Answer], what: Iterable[Of]) -> list[Answer]:
        """Ask the same of many paths or the like, some at once; the answers in their order."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(ask, what))

    def documents(
        self, what: str, paths: Iterable[str], parse: Callable[[str, bytes], Answer], damaged: dict[str, str]
    ) -> dict[str, Answer]:
        """What documents say, by their paths; those that are not there are left out.

        Args:
            what: they are, such as "an item".
            paths: of them.
            parse: makes something of a path and what lies there; what it raises of `ODD` is a fault of the document.
            damaged: where it is put down, by path, what is wrong with those that cannot be used.
        """

        def document(path: str) -> Answer | None:
            try:
                data = self.get(path)
                try:
                    return None if data is None else parse(path, data)
                except ODD as error:
                    # Not its words alone: they may quote all that the document holds
                    told = f"it is not {what} that cloudjob wrote: {type(error).__name__}: {error}"
                    raise ContractError(told) from None
            except ContractError as error:
                damaged[path] = str(error)
                return None

        paths = list(paths)
        return {path: found for path, found in zip(paths, self.each(document, paths), strict=True) if found is not None}

    def put(self, path: str, data: bytes) -> None:
        """Write an object, whole or not at all.

        Raises:
            ContractError: a link or a folder lies in the way.
        """
        with self.reached():
            if self.folder:
                folders.writable(self.folder, path)
            obstore.put(self.store, path, data)
            if self.folder:
                folders.settle(self.folder, path)

    def put_json(self, path: str, document: Any) -> None:
        """Write an object as JSON."""
        self.put(path, dump(document))

    def create(self, path: str, data: bytes) -> bool:
        """Write an object unless there is one: False then. Of two that try at once with other bytes one succeeds.

        The same bytes are one's own: the answer to a first attempt was lost, and the store was asked again.
        """
        with self.reached():
            if self.folder:
                folders.writable(self.folder, path)
            try:
                obstore.put(self.store, path, data, mode="create")
            except exceptions.AlreadyExistsError:
                return self.get(path) == data
            except exceptions.GenericError as error:
                # obstore needs hard links for it, which exFAT and many mounts do not have
                if not self.folder or not re.search(r"\(os error (1|38|95)\)", str(error)):
                    raise
                if not folders.reserve(self.folder, path):
                    return self.get(path) == data
                obstore.put(self.store, path, data)
            if self.folder:
                folders.settle(self.folder, path)
            return True

    def delete(self, paths: Iterable[str]) -> None:
        """Delete objects; those that are not there are none to delete."""
        for path in paths:
            with self.reached():
                if self.folder:
                    folders.delete(self.folder, path)
                    continue
                try:
                    obstore.delete(self.store, path)
                except FileNotFoundError:
                    continue

    def delete_under(self, prefix: str, allowed: Callable[[], None] = lambda: None) -> None:
        """Delete all of ours whose path begins with `prefix` and a slash; what somebody else put there stays.

        Before each file, or request, `allowed` is asked, which raises where that is over (`Lock.check`): to delete many
        takes minutes, amid which the machine may sleep.
        """
        with self.reached():
            if self.folder:
                folders.delete_under(self.folder, prefix, allowed)
                return
            for batch in bucket.whole(lambda: [*obstore.list(self.store, prefix)]):
                allowed()
                obstore.delete(self.store, [found["path"] for found in batch if folders.is_ours(found["path"])])

    def tags(self, prefix: str) -> dict[str, str]:
        """Every object below a prefix with a tag (ETag) that changes whenever it is written."""
        with self.reached():
            if self.folder:
                return {
                    path: f"{state.st_ino:x}-{state.st_mtime_ns:x}-{state.st_size:x}"
                    for path, state in folders.files(self.folder, prefix)
                }
            batches = bucket.whole(lambda: [*obstore.list(self.store, prefix)])
            return {found["path"]: found["e_tag"] or "" for batch in batches for found in batch}

    def names(self, prefix: str = "") -> set[str]:
        """Names of the objects and folders that lie directly below a prefix."""
        with self.reached():
            if self.folder:
                return folders.names(self.folder, prefix)
            found = bucket.whole(lambda: obstore.list_with_delimiter(self.store, prefix or None))
        paths = [*found["common_prefixes"], *(each["path"] for each in found["objects"])]
        return {path.rsplit("/", 1)[-1] for path in paths} - {""}

    def blocked(self, path: str) -> str:
        """What lies where a folder belongs, as a link, in words; "" if nothing does. Object stores have no folders."""
        return folders.blocked(self.folder, path) if self.folder else ""

    def oddities(self) -> list[str]:
        """Paths of what is neither a file nor a folder: links, pipes, sockets. Object stores have none."""
        return folders.oddities(self.folder) if self.folder else []

    def sweep(self, prefix: str, *, keep: Iterable[str] = (), deep: bool = True) -> None:
        """Remove what interrupted writes left below a prefix; object stores leave nothing.

        Args:
            prefix: where to look.
            keep: folders not to enter.
            deep: whether to enter folders at all.
        """
        if self.folder:
            with self.reached():
                folders.sweep(self.folder, prefix, keep, deep=deep)


class _Zarr(ZarrStore[ObjectStore]):
    """A part of an output as a Zarr store, which writes and deletes through no link."""

    def __init__(
        self, store: ObjectStore, *, read_only: bool = False, root: Path | None = None, prefix: str = ""
    ) -> None:
        super().__init__(store, read_only=read_only)
        self.root, self.prefix = root, prefix

    def with_read_only(self, read_only: bool = False) -> "_Zarr":
        return _Zarr(self.store, read_only=read_only, root=self.root, prefix=self.prefix)

    def _guard(self, key: str) -> None:
        if self.root:
            folders.within(self.root, f"{self.prefix}/{key}".strip("/"))

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        if self.root:
            folders.readable(self.root, f"{self.prefix}/{key}")
            return await super().get(key, prototype, byte_range)
        begun = time.monotonic()
        for pause in bucket.PAUSES:  # As `bucket.whole`
            with bucket.may_break_off(begun):
                if (found := await super().get(key, prototype, byte_range)) is None or len(found):
                    return found
            await asyncio.sleep(pause)
        return await super().get(key, prototype, byte_range)

    async def set(self, key: str, value: Any) -> None:
        self._guard(key)
        await super().set(key, value)
        if self.root:
            folders.settle(self.root, f"{self.prefix}/{key}")

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        self._guard(key)
        await super().set_if_not_exists(key, value)

    async def delete(self, key: str) -> None:
        self._guard(key)
        await super().delete(key)


def _folder(path: Path) -> str:
    """A folder's address, if a folder it can be: no later error would name the file that is in the way so well."""
    if taken := next(filter(os.path.isfile, (path, *path.parents)), None):
        raise UsageError(f"{taken} is a file; expected a folder, or none yet", hint="--out FOLDER")
    return str(path)
