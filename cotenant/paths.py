"""Where the daemon keeps its state and listens, unless told otherwise."""

from __future__ import annotations

import os
from pathlib import Path


def default_state() -> Path:
    """Give $COTENANT_STATE, else /var/lib/cotenant for root and the XDG state folder for everybody else."""
    if given := os.environ.get("COTENANT_STATE"):
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/cotenant")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "cotenant"


def default_socket() -> Path:
    """Give $COTENANT_SOCKET, else the socket in the default state folder."""
    if given := os.environ.get("COTENANT_SOCKET"):
        return Path(given)
    return default_state() / "cotenant.sock"
