"""Whether this machine has the certificate that a tls:// address asks for."""

import dask
from distributed import Security

from cloudjob.errors import UnreachableError, redact


def check(address: str, role: str) -> None:
    """Make sure that there is a certificate if the address asks for one. Dask's own words for that are obscure.

    Args:
        address: of a scheduler.
        role: client, worker or scheduler, as in Dask's settings `distributed.comm.tls`.

    Raises:
        UnreachableError: there is none that can be read, or the address is not encrypted where settings require it.
    """
    if not address.startswith("tls://"):
        if dask.config.get("distributed.comm.require-encryption"):
            raise UnreachableError(
                f"{redact(address)} is not encrypted, and Dask's settings require it", hint="tls:// in place of tcp://"
            )
        return
    security = Security()
    files = [getattr(security, name) for name in ("tls_ca_file", f"tls_{role}_cert", f"tls_{role}_key")]
    fault = "" if all(files) else "Dask's settings distributed.comm.tls name none"
    try:
        security.get_connection_args(role)
    except OSError as error:  # It does not say which file
        fault = f"{error}: {', '.join(filter(None, files))}"
    if fault:
        raise UnreachableError(
            f"{redact(address)} needs a certificate of this {role}: {fault}", hint="see TLS in deploy/README.md"
        )
