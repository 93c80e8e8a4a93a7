"""How many worker processes share a GPU: told by its environment to each, and known without torch."""

import os

SHARE = "CLOUDJOB_GPU_SHARE"
"""Environment variable of a worker process: how many have the same GPU. Each may use that part of its memory."""


def share() -> int:
    """How many processes share this one's GPU; 1 where nobody has said."""
    return max(1, int(os.environ.get(SHARE) or 1))
