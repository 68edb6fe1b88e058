"""Settings of the daemon: command line first, then environment (COTENANT_*), then defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from cotenant.paths import default_state

_SOCKET_LIMIT_BYTES = 107  # sun_path of sockaddr_un less the final NUL


class Settings(BaseSettings):
    """Everything `cotenant serve` can be told."""

    model_config = SettingsConfigDict(env_prefix="COTENANT_", frozen=True, extra="ignore")

    state: Path = Field(default_factory=default_state)
    socket: Path | None = None  #: default: STATE/cotenant.sock; the read-only one stands beside it
    mechanism: Literal["auto", "cgroup_v1", "cgroup_v2", "affinity"] = "auto"
    metrics_address: str = "127.0.0.1:9417"  #: empty = no metrics; port 0 = any free one
    allow_uids: tuple[int, ...] = ()  #: besides the daemon's own
    allow_any_uid: bool = False
    migrate_mib_per_s: int = Field(default=0, ge=0, le=100_000)  #: of present pages to a placement's nodes; 0 = none
    reconcile_s: float = Field(default=5.0, ge=0.1, le=3600)
    monitor_s: float = Field(default=1.0, ge=0, le=3600)  #: between two looks at what placed workloads do; 0 = none
    workers: int = Field(default=8, ge=2, le=64)
    log_format: Literal["json", "text"] = "json"

    @model_validator(mode="before")
    @classmethod
    def _empty_paths_unset(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Take an empty path for the default, as clients do, not for the working folder."""
        return {key: value for key, value in values.items() if value != "" or key not in {"state", "socket"}}

    @field_validator("metrics_address")
    @classmethod
    def _loopback_only(cls, value: str) -> str:
        host, colon, port = value.rpartition(":")
        if value and (not colon or not port.isdecimal() or int(port) > 65535):
            raise ValueError(f"{value!r} must be HOST:PORT, or empty for none")
        if value and host not in {"127.0.0.1", "localhost", "[::1]"}:
            raise ValueError(f"{host!r} is not loopback; metrics name workloads and carry no access control")
        return value

    @model_validator(mode="after")
    def _socket_fits(self) -> Self:
        for path in (self.socket_path, self.read_socket_path):
            if len(str(path).encode()) > _SOCKET_LIMIT_BYTES:
                raise ValueError(
                    f"socket path {str(path)!r} is longer than {_SOCKET_LIMIT_BYTES} bytes, which Unix sockets cannot "
                    "hold; choose a shorter --socket"
                )
        return self

    @property
    def socket_path(self) -> Path:
        """Where changes and reads are served."""
        return (self.socket or self.state / "cotenant.sock").absolute()

    @property
    def read_socket_path(self) -> Path:
        """Where only reads are served."""
        path = self.socket_path
        return path.with_name(f"{path.stem}-read{path.suffix}")
