"""What can go wrong, once: every error has an exit code for schedulers and a hint for people."""

import difflib
import errno
import re
from collections.abc import Iterable, Mapping
from typing import Any

DONE = 0
SOME_FAILED = 1
USAGE = 2
CONTRACT = 3
UNREACHABLE = 4
CRASHED = 70
"""EX_SOFTWARE of sysexits.h: a bug of cloudjob's own."""
INTERRUPTED = 130
TERMINATED = 143

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What is said of a disk without space, and of a quota that is used up."""

SPACE = "free some space, then run the same command again"

LONGEST = 3000
"""Letters of what an error says: a terminal's screen full."""


class CloudjobError(Exception):
    """Base of all errors that cloudjob raises on purpose.

    Args:
        message: what is wrong, naming the offending value and what was expected.
        hint: what to do about it, printed on a line of its own: a traceback has it as a note.

    Attributes:
        worker: address of the worker that it happened on, or "".
    """

    exit_code = SOME_FAILED
    worker = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(_fit_to_print(message))
        self.hint = _fit_to_print(hint) if hint else None
        if self.hint:
            self.add_note(f"hint: {self.hint}")

    @property
    def told(self) -> str:
        """In one line what is wrong and what to do about it, as a scene that failed keeps it."""
        return f"{self}; {self.hint}" if self.hint else str(self)


class UsageError(CloudjobError):
    """The command line or an argument is wrong. Never worth a retry."""

    exit_code = USAGE


class ContractError(CloudjobError):
    """A checkpoint, a catalog's assets or an OUT is not what this job needs. Never worth a retry."""

    exit_code = CONTRACT


class UnreachableError(CloudjobError):
    """A catalog, a store or a cluster does not answer, or another run is at work. Worth a retry."""

    exit_code = UNREACHABLE


class SceneError(CloudjobError):
    """One scene cannot be read or does not match its metadata. Costs that scene only.

    Attributes:
        asset: key of the asset whose file it is about; "" where that is not known.
    """

    def __init__(self, message: str, *, hint: str | None = None, asset: str = "") -> None:
        super().__init__(message, hint=hint)
        self.asset = asset


class UnseenError(SceneError):
    """A file on a disk is not there, or may not be read, on the machine that should: on others it may be."""


class PassingError(SceneError):
    """A read failed in a way that may be over soon: worth another attempt in the same run."""


class UnaskedError(PassingError):
    """A read failed, and what its server sends nobody could look at: where no other scene of it is read, it is out."""


class OutsideError(SceneError):
    """A scene cannot be read for a reason that is not its own (access refused). It never counts against the scene."""


class KeysMissingError(OutsideError):
    """A source wants keys, and the environment holds none: no scene of that source can be read."""


class OutageError(PassingError, OutsideError):
    """A source does not answer, or refuses for the moment (5xx, a time-out, no such host, a lapsed signature)."""


def exit_code(error: BaseException) -> int:
    """The exit code of a process that ends with an error; 70 for what nobody has foreseen."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return int(getattr(error, "exit_code", CRASHED))


def unwritten(what: str, error: OSError, hint: str | None = None) -> CloudjobError:
    """The error of a place that a person named and that cannot be written: wrong usage, unless its disk is full."""
    if error.errno in FULL:
        return UnreachableError(f"{what}: {error}", hint=SPACE)
    return UsageError(f"{what}: {error}", hint=hint)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint: the name that was probably meant, else all that there are."""
    choices = sorted(set(known))
    near = difflib.get_close_matches(name, choices, n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    some = ", ".join(choices[:8])
    return f"there are {some}" + (f" and {len(choices) - 8} more" if len(choices) > 8 else "")


def _fit_to_print(text: str) -> str:
    """Strangers' texts are quoted in ours: without their secrets, their escape sequences, and their length."""
    shown = printable(redact(text[: 4 * LONGEST]))
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"


# Every character is looked at by each of these a few times at most: a match takes all of an address, whether there is
# something to cut off or not, and what may stand before a name is not looked for.
_QUERY = re.compile(r"(\w[\w+.-]{0,20}://[^\s'\"<>?#]*+|/vsi\w{1,20}(?=[/?#])[^\s'\"<>?#]*+)(?:[?#][^\s'\"<>)\]]*+)?")
# GDAL names files so, without folder
_FILE_QUERY = re.compile(r"([\w-]\.\w{1,15})\?[^\s'\"<>)\],=]{0,100}=[^\s'\"<>)\],]*+")
_USERINFO = re.compile(r"(\w[\w+.-]{0,20}://)[^\s/'\"]+@")
_WORD = (
    r"(?:sig|signature|token|password|passwd|secret[\w-]{0,40}|credential"
    r"|(?:access|account|storage|subscription|api|private)[_-]?key(?:[_-]?id)?)"
)
_NAME = r"[\w-]{0,40}" + _WORD
# "token": "…" in JSON, and 'token': '…' in Python
_QUOTED = re.compile(
    rf"(?i)(?P<name>(?P<a>['\"])(?:[\w-]{{1,40}}:)?{_NAME}(?P=a)\s*:\s*(?P<b>['\"]))(?:\\.|(?!(?P=b)).)*(?P=b)"
)
_SECRET = re.compile(rf"(?i)(?:[\w-]{{1,40}}:)?{_NAME}")
_NAMED = re.compile(rf"(?i)({_WORD}(?:\s*=\s*|:\s*|%3D))(?!\*\*\*)[^\s&'\",;)]+")
_HEADER = re.compile(r"(?i)\b(authorization['\"]?\s*[:=]\s*['\"]?(?:\w+\s+)?|bearer\s+)(?!\*\*\*)[\w.~+/=-]{8,}")


def printable(text: str) -> str:
    """Return `text` with the letters escaped that would move a terminal's cursor, colour it, or cannot be written.

    Names and answers are strangers': an escape sequence in them must reach nobody's terminal.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in "\n\t" else ascii(each)[1:-1] for each in text)


def redact(text: str) -> str:
    """Return `text` without query strings, user names in addresses, tokens or keys.

    Everything that leaves the process (log line, error, store, item, report) goes through here.
    """
    text = _QUERY.sub(r"\1", text)
    text = _FILE_QUERY.sub(r"\1", text)
    text = _USERINFO.sub(r"\1", text)
    text = _HEADER.sub(r"\1***", text)
    text = _QUOTED.sub(r"\g<name>***\g<b>", text)
    return _NAMED.sub(r"\1***", text)


def redact_all(value: Any) -> Any:
    """Return JSON types with every text in them redacted, and whole where its name says that it is a secret."""
    if isinstance(value, Mapping):
        return {name: "***" if _SECRET.fullmatch(str(name)) else redact_all(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(each) for each in value]
    return redact(value) if isinstance(value, str) else value
