"""How much of its time and memory the gateway lends to one connection."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from gateway.config import Config, ConfigError


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    body_bytes: int = 10 << 20
    connections: int = 20_000  # of clients, at one process
    upload_bytes: int = 32 << 20  # of a form with a file; vLLM takes files up to 25 MiB
    header_bytes: int = 64 << 10
    header_s: float = 15.0  # from the first byte of a request to its empty line
    body_s: float = 60.0  # from there to the body's last byte
    upload_s: float = 300.0  # the same of a form with a file; its pieces within `body_s`
    idle_s: float = 75.0  # between two requests on one connection
    write_s: float = 60.0  # a reader that takes nothing for so long is gone
    linger_s: float = 10.0  # reading on after a refusal, so that the refusal is read
    engine_s: float = 900.0  # an engine that says nothing for so long is given up
    silent_s: float = 5.0  # … and a replica gets no more, beside what its prompts take
    connect_s: float = 5.0
    expired_s: float = 600.0  # an answer may outlive the certificate of its node by so much
    engine_idle_s: float = 3.0  # vLLM closes an idle connection after 5 s: we are first
    hold_s: float = 120.0  # a request's longest wait for an endpoint at zero
    queue_s: float = 120.0  # … and for room on its replicas
    hold_quiet_s: float = 10.0  # a waiting stream gets its status and a comment so often
    held_per_endpoint: int = 1000
    held_bytes: int = 256 << 20  # bodies of all requests that wait
    aging_s: float = 30.0  # so long a wait counts as one priority more
    drain_s: float = 30.0
    file_bytes: int = 201 << 20  # of a form with a file for batches; the control plane has its own
    spare_share: float = 0.75  # of a replica, that lines of batches may fill

    @classmethod
    def of(cls, config: Config, environ: Mapping[str, str] = os.environ) -> "Limits":
        """The configured ones; the others from STOA_GATEWAY_<FIELD>, e.g. STOA_GATEWAY_IDLE_S.

        Raises ConfigError with the variable's name.
        """
        given: dict[str, Any] = {
            "body_bytes": config.body_limit_bytes,
            "hold_s": config.hold_s,
            "drain_s": config.drain_s,
        }
        for field in dataclasses.fields(cls):
            variable = f"STOA_GATEWAY_{field.name.upper()}"
            value = environ.get(variable)
            if field.name in given or not value:
                continue
            try:
                given[field.name] = int(value) if field.type in (int, "int") else float(value)
            except ValueError:
                raise ConfigError(f"{variable}={value!r}: expected a number") from None
        return cls(**given)
