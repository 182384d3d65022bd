"""The terms of a quote: what is asked, what is offered, what comes out."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from billing.rating import PriceVersion
from controlplane.placement.devices import Device
from controlplane.placement.memory.estimates import Estimate
from controlplane.placement.memory.predict import Question
from controlplane.placement.speed.engines import NOTHING, Learned
from controlplane.placement.speed.forecasts import Forecast, Runtime
from controlplane.placement.speed.load import Job, Load
from controlplane.placement.speed.starts import Tier

AS_IT_IS = ""  # the quantisation of the checkpoint itself


@dataclass(frozen=True)
class Slo:
    """Seconds that 95 of 100 requests do not exceed; None: any."""

    ttft_s: float | None = None
    tpot_s: float | None = None


@dataclass(frozen=True)
class Offer:
    """A kind of device that may be had: `most` in one node, `free` now in all (None: enough), and
    on each of its `nodes`, where that is known."""

    device: Device
    price: PriceVersion | None  # of a device-hour
    most: int = 8
    free: int | None = None
    kind: str = ""  # as nodes call it, and endpoints ask for it; empty: as the device's name
    pool: str = ""  # where that is; a candidate has it again
    nodes: tuple[int, ...] = ()

    def room(self, devices: int) -> int:
        """How many times so many devices are free on one node."""
        return sum(free // devices for free in self.nodes)


@dataclass(frozen=True)
class Ask:
    """`question` says the model and vLLM's arguments; its device counts for nothing.

    `name` is the model's, as other tools know it; `quantizations` are what may be done to it: ""
    as the checkpoint is, or what `--quantization` takes. `shares`: whether engines may be
    data-parallel.
    """

    question: Question
    name: str
    demand: Load | Job
    offers: Sequence[Offer]
    slo: Slo = Slo()
    quantizations: Sequence[str] = (AS_IT_IS,)
    learned: Learned = NOTHING
    shares: bool = True


@dataclass(frozen=True)
class Split:
    """How one replica stands on its devices; 0 ranks: on none at all."""

    ranks: int = 1
    stages: int = 1
    shares: int = 1

    @property
    def node_devices(self) -> int:
        return self.ranks * self.shares


NONE = Split(0, 0, 0)


@dataclass(frozen=True)
class Money:
    """Exact; None where there is no price. A job's are p50 and p95; both of the time from ready
    until it is done: starts are not billed."""

    currency: str
    hour: Decimal | None
    million_tokens: Decimal | None  # read and written, at the load that is asked for
    million_output_tokens: Decimal | None
    job: Decimal | None = None
    job_p95: Decimal | None = None


@dataclass(frozen=True)
class Candidate:
    """One way to serve it. `replicas` are alike, each with its part of the requests; within one,
    `data_parallel_size` shares of a sparse model have the experts in common."""

    device: str
    tensor_parallel_size: int
    pipeline_parallel_size: int
    data_parallel_size: int
    replicas: int
    quantization: str
    max_num_seqs: int
    max_model_len: int
    forecast: Forecast | None
    runtime: Runtime | None
    starts: dict[Tier, Estimate]
    money: Money
    refined_by: str = ""
    kind: str = ""
    pool: str = ""

    @property
    def split(self) -> Split:
        return Split(
            self.tensor_parallel_size, self.pipeline_parallel_size, self.data_parallel_size
        )

    @property
    def devices(self) -> int:
        split = self.tensor_parallel_size * self.pipeline_parallel_size * self.data_parallel_size
        return self.replicas * split


@dataclass(frozen=True)
class Lost:
    """What is not advised, and why, in a person's words."""

    device: str
    split: Split
    quantization: str
    reason: str


@dataclass(frozen=True)
class Quote:
    """`ranked`: best first, all of which keep the SLO."""

    ranked: tuple[Candidate, ...]
    lost: tuple[Lost, ...]

    @property
    def best(self) -> Candidate | None:
        return self.ranked[0] if self.ranked else None
