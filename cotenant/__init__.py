"""The contract: stubs, client and the door of the one command. Imports none of the other layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cotenant.client import Client, CotenantError, DaemonUnreachable

__all__ = ["Client", "CotenantError", "DaemonUnreachable"]


def __getattr__(name: str) -> Any:
    """Load the client on first use, so that `cotenant --help` does not pay for gRPC."""
    if name in __all__:
        from cotenant import client  # noqa: PLC0415 - the point of this function

        return getattr(client, name)
    raise AttributeError(f"module 'cotenant' has no attribute {name!r}")
