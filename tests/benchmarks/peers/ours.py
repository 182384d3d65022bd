"""Ours: `python -m gateway` on a real PostgreSQL, with everything on."""

import hmac
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import django

import tests.environment  # noqa: F401  (starts PostgreSQL: the settings need its address)

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
django.setup()

from django.core.management import call_command  # noqa: E402  (Django must be ready first)
from django.db import transaction  # noqa: E402

from billing.models import Budget, Meter, Period, Price, Subject, Unit  # noqa: E402
from compliance import grants  # noqa: E402
from controlplane.tenancy.models import ApiKey, ApiKeySecret, Organization, Project  # noqa: E402
from tests.benchmarks.peers.processes import Program  # noqa: E402
from tests.benchmarks.peers.things import Thing  # noqa: E402
from tests.benchmarks.peers.upstream import MODEL, Upstream, question  # noqa: E402
from tests.benchmarks.peers.wrk import MARK, Request  # noqa: E402
from tests.gateway.house import NOW, PEPPER, House, new_project, role_url  # noqa: E402
from workers.local.embedded import free_port  # noqa: E402

# Limits that count each request and refuse none.
PLENTY = 1_000_000_000
RATE_LIMITS = {
    "requests_per_minute": PLENTY,
    "input_tokens_per_minute": PLENTY,
    "output_tokens_per_minute": PLENTY,
    "concurrency": 1_000_000,
}
CONTEXT = 32_768
VERSION = "this checkout"


def prepare() -> None:
    """The database as an installation has it."""
    call_command("migrate", interactive=False, verbosity=0)
    grants.apply("stoa_app", "stoa_gateway")
    for meter in (Meter.INPUT_TOKENS, Meter.CACHED_TOKENS, Meter.OUTPUT_TOKENS):
        Price.objects.create(meter=meter, amount=Decimal("0.25"), valid_from=NOW, created_at=NOW)


def everything_on(house: House, key: ApiKey) -> dict[str, str]:
    """Switches on whatever costs something on a request's way; returns the headers that do.

    Prefix routing, the context guard, the spool and metrics need no switch. The endpoints are the
    operator's, shared and priced by the token, so that euro budgets of all four count.
    """
    project = house.project
    Organization.objects.filter(pk=project.organization_id).update(**RATE_LIMITS)
    Project.objects.filter(pk=project.pk).update(**RATE_LIMITS)
    ApiKey.objects.filter(pk=key.pk).update(**RATE_LIMITS)
    for subject, subject_id in (
        (Subject.ORGANIZATION, project.organization_id),
        (Subject.PROJECT, project.pk),
        (Subject.KEY, key.pk),
        (Subject.RUN, project.pk),
    ):
        Budget.objects.create(
            organization_id=project.organization_id,
            subject=subject,
            subject_id=subject_id,
            unit=Unit.NANO_EUR,
            amount=PLENTY**2,
            window=Period.TOTAL if subject == Subject.RUN else Period.MONTH,
            time_zone="Europe/Berlin",
            created_at=NOW,
        )
    return {"x-stoa-run": "bench"}


@dataclass
class Ours:
    """One organization in a region of its own, and gateways in front of it.

    To begin with it has one key, and there is one shared endpoint of the operator's with four
    replicas.
    """

    house: House
    operator: Project
    upstream: Upstream
    folder: Path
    headers: dict[str, str]
    address: Callable[[Path], str]  # of a replica, by the socket that it listens on
    started: int = 0
    sockets: dict[str, Path] = field(default_factory=dict)  # by replica

    @classmethod
    def build(
        cls,
        upstream: Upstream,
        folder: Path,
        region: str,
        address: Callable[[Path], str] = lambda path: f"unix:{path}",
    ) -> "Ours":
        house = House.build(region)
        ours = cls(house, new_project("the operator", region), upstream, folder, {}, address)
        ours.add_endpoint(MODEL, upstream.sockets)
        key = house.key(ours.secret(0), allowed_models=[MODEL])
        ours.headers = everything_on(house, key)
        return ours

    @property
    def region(self) -> str:
        return self.house.pool.region_id

    def secret(self, number: int) -> str:
        """Of the key with this number."""
        return self._secret(f"{number:08d}")

    def _secret(self, eight: str) -> str:
        return f"sk-stoa-{eight}-{self.region:k<43}"

    @property
    def gateway_folder(self) -> Path:
        """Of the one started last."""
        return self.folder / f"{self.region}-{self.started}"

    def start(self, workers: int = 1, settings: dict[str, str] | None = None) -> Thing:
        """A gateway of its own. Raises PeerError."""
        self.started += 1
        folder = self.gateway_folder
        folder.mkdir(mode=0o700)
        port = free_port()
        env = {
            "STOA_GATEWAY_DATABASE_URL": role_url(),
            "STOA_KEY_PEPPER": PEPPER.decode(),
            "STOA_GATEWAY_DIR": str(folder),
            "STOA_GATEWAY_SOCKETS": str(self.upstream.sockets[0].parent),
            "STOA_GATEWAY_PORT": str(port),
            "STOA_GATEWAY_METRICS_PORT": str(free_port()),
            "STOA_GATEWAY_WORKERS": str(workers),
            "STOA_GATEWAY_ID": folder.name,
            "STOA_REGION": self.region,
            **(settings or {}),
        }
        log = folder.with_suffix(".log")
        program = Program.start([sys.executable, "-P", "-m", "gateway"], log, env)
        return Thing("ours", VERSION, port, program, self._bearer(self.secret(0))).wait()

    def _bearer(self, secret: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {secret}", **self.headers}

    # --- many keys, many endpoints ------------------------------------------------------
    @transaction.atomic
    def add_keys(self, upto: int) -> None:
        """So that there are keys with the numbers below `upto`."""
        first = ApiKey.objects.filter(project=self.house.project).count()
        for at in range(first, upto, 5_000):
            numbers = range(at, min(at + 5_000, upto))
            keys = ApiKey.objects.bulk_create(list(self._keys(numbers)))
            ApiKeySecret.objects.bulk_create(
                [
                    ApiKeySecret(
                        key=key,
                        prefix=key.prefix,
                        hash=hmac.digest(PEPPER, self.secret(number).encode(), "sha256"),
                        created_at=NOW,
                    )
                    for number, key in zip(numbers, keys, strict=True)
                ]
            )

    def _keys(self, numbers: range) -> Iterator[ApiKey]:
        for number in numbers:
            yield ApiKey(
                project=self.house.project,
                name="key",
                prefix=f"sk-{number:08d}{self.region}"[:24],
                scopes=["inference"],
                allowed_models=[MODEL],
                created_at=NOW,
                created_by="bench",
                **RATE_LIMITS,
            )

    @transaction.atomic
    def add_endpoints(self, count: int) -> None:
        """Besides the first; each with one replica, and one key for all of them."""
        for number in range(count):
            socket = self.upstream.sockets[number % len(self.upstream.sockets)]
            self.add_endpoint(endpoint_name(number), [socket])
        self.house.key(self._secret("anywhere"), **RATE_LIMITS)

    def add_endpoint(self, name: str, sockets: Iterable[Path]) -> None:
        """A shared one of the operator's."""
        made = self.house.endpoint(name, project=self.operator, shared_at=NOW)
        for path in sockets:
            report = {"max_model_len": CONTEXT}
            replica = self.house.replica(made, self.address(path), engine_report=report)
            self.sockets[replica.pk] = path

    def request(self, content: str) -> Request:
        """With the first key."""
        return Request(question(content), self._bearer(self.secret(0)))

    def by_keys(self, numbers: Sequence[int]) -> Request:
        """A request with each of these keys in turn."""
        words = self._words(f"{len(numbers)}-keys", [self.secret(number) for number in numbers])
        return Request(question("hello"), self._bearer(MARK), words)

    def by_endpoints(self, count: int) -> Request:
        """A request to each of so many endpoints in turn."""
        words = self._words("endpoints", [endpoint_name(n) for n in range(count)])
        return Request(question("hello", model=MARK), self._bearer(self._secret("anywhere")), words)

    def _words(self, what: str, words: list[str]) -> Path:
        path = self.folder / f"{self.region}.{what}"
        path.write_text("\n".join(words) + "\n")
        return path


def endpoint_name(number: int) -> str:
    """As long as MARK: a body's length is said before it is known which stands in it."""
    return f"endpoint-{number:0{len(MARK) - 9}d}"
