"""JSON from a server of unknown hands: asked for patiently, read within bounds, and never on another's behalf."""

import contextlib
import email.utils
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests

from cloudjob.catalog.values import load
from cloudjob.errors import ContractError, UnreachableError, printable, redact

log = logging.getLogger(__name__)

MAX_BYTES = 128 * 2**20
"""Of one answer, unpacked. A page of 100 items of Earth Search has 3 MB."""
MAX_SECONDS = 180
"""For one answer: a server that sends a byte now and then must not hold a run for ever."""
LONGEST_WAIT = 60.0
"""Seconds that a server may make us wait by `Retry-After`; one that asks for more is not reachable now."""

_OF_ANOTHER_TIME = (9, 10)
"""OpenSSL's codes of certificates that hold not yet, and no longer: either clocks or certificates are put right."""

_REDIRECTS = 5
_JSON = {"Accept": "application/geo+json, application/json, */*;q=0.1"}
"""Some have a page for people at the same address. Who knows no type that is named may refuse: so any other is, too."""
_CHUNK = 2**16
_LATER = "nothing was changed; the same command may work later"

T = TypeVar("T")


def within(seconds: float, ask: Callable[[], T]) -> T:
    """Return what a call of a server gives; what takes longer is left to itself, in a thread that keeps no process.

    `requests` and urllib3 only bound each read: of what drips they wait for the end, for ever.

    Raises:
        TimeoutError: it takes longer.
    """
    told: Future[T] = Future()

    def answer() -> None:
        try:
            told.set_result(ask())
        except BaseException as error:  # noqa: BLE001 -- raised again where the call was made
            told.set_exception(error)

    threading.Thread(target=answer, daemon=True).start()
    return told.result(seconds)


class RefusedRequestError(Exception):
    """The server answers that it does not want this request (HTTP 4xx, 501). Another form of it may be wanted.

    Attributes:
        status: HTTP's.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(printable(redact(f"HTTP {status} {' '.join(text.split())[:200]}")).strip())
        self.status = status


class ServerFaultError(UnreachableError):
    """The server goes on answering that it has failed (HTTP 5xx but 503): perhaps because it was asked for too much."""


class _PassingFault(Exception):  # noqa: N818  # It is no error until it has lasted
    """What may soon be over: no answer, half of one, or one that is not the API's."""

    def __init__(self, reason: str, wait: float = 0.0, lasting: type[UnreachableError] = UnreachableError) -> None:
        super().__init__(reason)
        self.wait, self.lasting = wait, lasting


@dataclass
class Client:
    """Asks one server for JSON.

    Attributes:
        waits: seconds between the tries.
        timeout: seconds to connect, and for each part of an answer.
        session: keeps the connection.
    """

    waits: Sequence[float]
    timeout: tuple[float, float]
    session: requests.Session = field(default_factory=requests.Session)

    def ask(
        self, method: str, address: str, body: Any = None, *, whole: Callable[[Any], bool] = lambda _: True
    ) -> dict[str, Any]:
        """Return the object that the server answers.

        Args:
            method: GET or POST.
            address: of http or https.
            body: of a POST, JSON.
            whole: whether an object is what was asked for; one that is not counts as cut.

        Raises:
            RefusedRequestError: the server does not want it.
            UnreachableError: no whole answer in all tries.
            ContractError: the address cannot be asked at all, or answers more than `MAX_BYTES`.
        """
        for wait in self.waits:
            try:
                return self._ask(method, address, body, whole)
            except _PassingFault as fault:
                pause = max(wait, fault.wait)
                if pause > max(wait, LONGEST_WAIT):
                    reason = f"{fault}; it asks to be left alone for {pause:.0f} s"
                    raise UnreachableError(f"{redact(address)} does not answer: {reason}", hint=_LATER) from None
                log.warning("%s: %s; trying again in %g s", redact(address), fault, pause)
            time.sleep(pause)
        try:
            return self._ask(method, address, body, whole)
        except _PassingFault as fault:
            raise fault.lasting(f"{redact(address)} does not answer: {fault}", hint=_LATER) from None

    def _ask(self, method: str, address: str, body: Any, whole: Callable[[Any], bool]) -> dict[str, Any]:
        try:
            status, headers, data = within(MAX_SECONDS, lambda: self._answer(method, address, body))
        except TimeoutError:
            raise _PassingFault(f"an answer takes longer than {MAX_SECONDS} s") from None
        except requests.exceptions.SSLError as error:
            raise _no_handshake(redact(address), error) from None
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise _PassingFault(_reason(error)) from None
        except requests.exceptions.ContentDecodingError:
            raise _PassingFault("its answer cannot be unpacked") from None
        except (requests.RequestException, OSError, ValueError) as error:  # OSError: there is no REQUESTS_CA_BUNDLE
            raise ContractError(f"{redact(address)} cannot be asked: {_reason(error)}") from None
        text = data[:1000].decode("utf-8", "replace")
        if status in (408, 425, 429) or (status >= 500 and status != requests.codes.not_implemented):
            wait = _retry_after(headers.get("Retry-After", ""), headers.get("Date", ""))
            lasting = ServerFaultError if status >= 500 and status != 503 else UnreachableError
            raise _PassingFault(str(RefusedRequestError(status, text)), wait, lasting)
        if status >= 300:
            raise RefusedRequestError(status, text)
        try:
            answer = load(data)
        except (ValueError, RecursionError):
            raise _PassingFault(f"its answer is not JSON: {' '.join(text.split())[:100]!r}") from None
        if not isinstance(answer, dict) or not whole(answer):
            raise _PassingFault(f"its answer is not what was asked for: {' '.join(text.split())[:200]!r}")
        return answer

    def _answer(self, method: str, address: str, body: Any) -> tuple[int, Any, bytes]:
        """(status, headers, body); where the server points elsewhere, from there, by the same method."""
        ends = time.monotonic() + MAX_SECONDS
        for _ in range(_REDIRECTS):
            with self.session.request(
                method, address, json=body, headers=_JSON, timeout=self.timeout, stream=True, allow_redirects=False
            ) as answer:
                if not answer.is_redirect:
                    return answer.status_code, answer.headers, _content(answer, ends)
                address = urljoin(address, answer.headers["Location"])
                if urlsplit(address).scheme not in ("http", "https"):
                    break
        raise ContractError(f"{redact(address)} points from address to address")


def _content(answer: requests.Response, ends: float) -> bytes:
    data = bytearray()
    for chunk in answer.iter_content(_CHUNK):
        data += chunk
        if len(data) > MAX_BYTES:
            raise ContractError(f"{redact(answer.url)} answers more than {MAX_BYTES // 2**20} MiB")
        if time.monotonic() > ends:  # Or a thread that was left to itself (`within`) would go on
            raise requests.Timeout(f"an answer takes longer than {MAX_SECONDS} s")
    return bytes(data)


def _retry_after(told: str, now: str) -> float:
    """Seconds that a server asks to wait: a number, or a date of HTTP by its own clock, which says `now`."""
    if told.strip().isdecimal() and len(told) < 10:
        return float(told)
    until, since = _date(told), _date(now) or datetime.now(UTC)
    return max(0.0, (until - since).total_seconds()) if until else 0.0


def _date(told: str) -> datetime | None:
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        found = email.utils.parsedate_to_datetime(told)
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was made of."""
    left = [error]
    while left:
        yield (each := left.pop())
        left += [inner for inner in (*each.args, getattr(each, "reason", None)) if isinstance(inner, BaseException)]


def _no_handshake(name: str, error: Exception) -> Exception:
    """What a handshake that failed means: only certificates, and what is no TLS at all, are lasting faults."""
    causes = list(_chain(error))
    if any(getattr(each, "verify_code", None) in _OF_ANOTHER_TIME for each in causes):
        hint = (
            f"this machine's clock says {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: set it, or wait for another certificate"
        )
        return UnreachableError(f"{name} has no certificate that holds now: {_reason(error)}", hint=hint)
    # "X509": the certificates that REQUESTS_CA_BUNDLE names
    if any(isinstance(each, ssl.SSLCertVerificationError) or getattr(each, "library", "") == "X509" for each in causes):
        return ContractError(f"{name} has no certificate to trust: {_reason(error)}")
    if any(getattr(each, "reason", "") == "WRONG_VERSION_NUMBER" for each in causes):
        return ContractError(f"{name} does not speak TLS: {_reason(error)}", hint="is it an http:// address?")
    return _PassingFault(_reason(error))  # A balancer that closes amid the handshake, or says an alert


def _reason(error: Exception) -> str:
    """What went wrong, without the address: its query may be secret."""
    inner = error.args[0] if error.args else error
    return str(getattr(inner, "reason", inner))
