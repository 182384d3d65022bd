"""What the parts of one gateway process share."""

from dataclasses import dataclass, field
from typing import Protocol

from gateway.access_log import AccessLog
from gateway.activity import Activity
from gateway.admission import Admission
from gateway.brake import Brake
from gateway.config import Config
from gateway.gate import Gate
from gateway.guard import Learning
from gateway.host import Host
from gateway.keeper import Keeper
from gateway.limits import Limits
from gateway.metrics import Metrics
from gateway.pools import Pools
from gateway.request_ids import RequestIds
from gateway.runs import Runs
from gateway.salts import Salts
from gateway.spare import Spare
from gateway.spool import Spool
from gateway.stops import Stops
from gateway.suspects import Suspects
from gateway.tracer import Tracer
from gateway.trials import Trials
from gateway.upstream import Engines
from gateway.uses import Uses


class Connection(Protocol):
    """A client's connection, as the server sees it."""

    deadline: float

    @property
    def spare(self) -> bool: ...  # nobody would miss it
    @property
    def asking(self) -> bool: ...  # a request has begun to come
    def sweep(self, now: float) -> None: ...
    def drain(self) -> None: ...
    def cut(self) -> None: ...
    def abort(self) -> None: ...


@dataclass(slots=True)
class Context:
    config: Config
    limits: Limits
    keeper: Keeper
    spool: Spool
    activity: Activity
    uses: Uses
    engines: Engines
    admission: Admission
    salts: Salts
    gate: Gate
    runs: Runs
    pools: Pools
    stops: Stops
    host: Host
    brake: Brake
    suspects: Suspects
    spare: Spare
    trials: Trials = field(default_factory=Trials)
    learning: Learning = field(default_factory=Learning)
    access: AccessLog | None = None
    tracer: Tracer | None = None
    metrics: Metrics = field(default_factory=Metrics)
    ids: RequestIds = field(default_factory=RequestIds)
    clients: set[Connection] = field(default_factory=set)
    draining: bool = False  # set once: no connection is kept alive any more
