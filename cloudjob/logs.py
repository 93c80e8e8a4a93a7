"""What is said on stderr: lines for people, or one JSON object a line for machines."""

import json
import logging
import os
import sys
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

from tqdm import tqdm

from cloudjob.errors import CRASHED, redact, redact_all

Format = Literal["text", "json"]

FORMAT = "CLOUDJOB_LOG_FORMAT"
"""Environment variable that tells the worker processes of this machine."""

DASK = ("distributed", "distributed.client", "bokeh", "tornado", "tornado.application")
"""Loggers to which Dask gives handlers of its own when it is imported."""

_told = logging.getLogger("cloudjob.told")
_told.setLevel(logging.INFO)

_said: dict[str, Any] = {}
"""What `setup` was told."""


def say(message: str, event: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Tell what is always told, whatever the log level.

    Args:
        message: for people.
        event: what kind of thing happened; "warning" and "error" are put in front of a line for people.
        level: of `logging`.
        fields: JSON types, for machines.
    """
    _told.log(level, "%s", message, extra={"event": event, "fields": fields})


def many(number: int, what: str) -> str:
    """Such as "1 scene" and "2 scenes"."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def begin() -> None:
    """Have what is said before `setup`, as of a stdout that is full, in the form that the environment asks for."""
    _handle("json" if is_json() else "text")


def setup(form: Format = "text", *, verbose: bool = False) -> None:
    """Have all that this process logs, and its worker processes if they are to log JSON, go to stderr in one form."""
    os.environ[FORMAT] = form
    if form == "json":
        # What a worker process says before `inherit` is called, and after it has ended, would be in another form
        os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "warning")
    # Python tells at the end what a killed worker could not give back: it is no news, and nobody's to mend
    os.environ.setdefault("PYTHONWARNINGS", "ignore:Port:UserWarning,ignore:resource_tracker:UserWarning")
    _handle(form)
    logging.getLogger().setLevel(logging.INFO if verbose else logging.WARNING)
    if verbose:
        logging.getLogger("rasterio").setLevel(logging.WARNING)
    _said.update(form=form, verbose=verbose)
    tame_dask()


def tame_dask() -> None:
    """Have Dask's loggers do as `setup` said; called again once Dask is imported, for that sets them anew.

    Where `setup` was not called this process is somebody else's, and nothing is changed.
    """
    if not _said:
        return
    verbose = _said["verbose"]
    logging.getLogger("distributed").setLevel(logging.WARNING if verbose else logging.ERROR)
    # Its client tells of a lost scheduler in a page of traceback, its scheduler of every result that a dead worker had:
    # what matters of that we say in a line.
    for name in ("distributed.client", "distributed.scheduler"):
        logging.getLogger(name).setLevel(logging.WARNING if verbose else logging.CRITICAL)
    if _said["form"] == "json":
        _adopt_dask()


def hush_dask() -> None:
    """Have Dask say nothing more in this process: it is ending, and somebody else tells why, in a line."""
    for name in list(logging.getLogger().manager.loggerDict):
        if name.partition(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def inherit() -> None:
    """In a worker process: log as JSON if the process that started it does."""
    if is_json():
        _handle("json")


def is_json() -> bool:
    """Whether stderr is for machines."""
    return os.environ.get(FORMAT) == "json"


def _handle(form: Format) -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Stderr)]:
        root.removeHandler(handler)
    root.addHandler(_Stderr(_Json() if form == "json" else _Text()))
    # GDAL tells of each of its own retries: 18 lines for a host that is out, which then becomes an error of ours.
    logging.getLogger("rasterio").setLevel(logging.ERROR)
    if form == "json":
        logging.captureWarnings(capture=True)
        sys.excepthook = _crashed
        _adopt_dask()


def _adopt_dask() -> None:
    for logger in map(logging.getLogger, DASK):
        logger.handlers.clear()
        logger.propagate = True


class _Stderr(logging.Handler):
    """Writes above a progress bar, to what is stderr at that time."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:  # noqa: BLE001 -- as every handler of `logging` does it
            self.handleError(record)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, "event", None)
        prefixes = {None: f"{record.levelname} ", "warning": "warning: ", "error": "error: ", "crash": "error: "}
        lines = [prefixes.get(event, "") + record.getMessage()]
        if hint := getattr(record, "fields", {}).get("hint"):
            lines.append(f"hint: {hint}")
        if record.exc_info:
            lines.append(self.formatException(record.exc_info))
        return redact("\n".join(lines))


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "log"),
            "message": record.getMessage(),
        }
        if not hasattr(record, "event"):
            document["logger"] = record.name
        document |= {name: value for name, value in getattr(record, "fields", {}).items() if value is not None}
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return json.dumps(redact_all(document), ensure_ascii=False)


def crashed(error: BaseException) -> None:
    """Tell of a crash of this process: a bug, with all that helps to find it."""
    message = f"this is a bug of cloudjob: {type(error).__name__}: {error}"
    fields = {"exit_code": CRASHED, "hint": "please report it with the lines below"}
    _told.critical("%s", message, exc_info=error, extra={"event": "crash", "fields": fields})


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A crash of a thread or of a worker process, said as everything else is."""
    message = f"{kind.__name__}: {error}"
    _told.critical("%s", message, exc_info=(kind, error, trace), extra={"event": "crash"})
