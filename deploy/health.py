#!/opt/venv/bin/python
"""Health check of the long-lived roles, `cloudjob run` and `cloudjob worker`: exits with 0 when Dask's own one answers.

A run answers on loopback, a worker on the address that faces its scheduler.
"""

import socket
import sys
from urllib.request import urlopen

PORT = 8787  # cloudjob.cluster.scheduler.DASHBOARD_PORT

said = []
for host in ("127.0.0.1", socket.gethostname()):
    try:
        with urlopen(f"http://{host}:{PORT}/health", timeout=4):
            sys.exit(0)
    except OSError as error:
        said.append(f"{host}:{PORT}: {error}")
sys.exit("\n".join(said))
