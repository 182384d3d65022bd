"""The companies of a demonstration: two hundred or so, in four countries, with what was agreed.

Their VAT numbers have the right check digits and belong to nobody here but the fake VIES. Django
must be ready.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from stdnum.eu import vat

from billing import months, services
from billing.invoices import profiles
from billing.models import Account, Meter
from billing.pricing import agreements, prices
from billing.pricing.terms import Allowance, Commitment, Tier
from compliance import audit
from controlplane.endpoints import version_spec
from controlplane.endpoints.models import Endpoint, EndpointVersion
from controlplane.fleet.models import Pool, Region
from controlplane.tenancy.models import Organization, Project
from tests.billing.invoices import ISSUER
from tests.billing.vat.fake_vies import State, Trader

KIND = "nvidia-h200"
PRICES = {
    Meter.DEVICE_SECONDS: Decimal("2.49"),
    Meter.WARM_SECONDS: Decimal("1.25"),
    Meter.ASLEEP_SECONDS: Decimal("0.18"),
}
# Country, city, postcode, and the shape of a VAT number (d: a digit).
_SEATS = (
    ("DE", "Hamburg", "20095", "DEddddddddd"),
    ("AT", "Wien", "1010", "ATUdddddddd"),
    ("FR", "Lyon", "69001", "FRddddddddddd"),
    ("NL", "Utrecht", "3511 AB", "NLdddddddddBdd"),
)
_OWN_ENDPOINTS = (1, 2, 3)
_DEVICES = (1, 1, 2, 8)


@dataclass(frozen=True)
class Company:
    account: Account
    organization: Organization
    country: str
    projects: tuple[Project, ...]
    endpoints: tuple[Endpoint, ...]


def found(count: int, born: datetime, seed: int, vies: State) -> list[Company]:
    """`count` companies, a seat after the other, all customers of one entity in Germany."""
    luck = random.Random(seed)
    profiles.set_entity(ISSUER, actor=audit.SYSTEM, now=born)
    vies.traders[ISSUER["vat_id"]] = Trader(ISSUER["name"], "Berlin")
    _publish(born)
    region = Region.objects.get()
    pool = Pool.objects.filter(region=region).first() or Pool.objects.create(
        region=region, name="gpus", created_at=born
    )
    numbers = {seat[0]: _numbers(seat[3], luck) for seat in _SEATS}
    made = []
    for number in range(count):
        country, city, postcode, _ = _SEATS[number % len(_SEATS)]
        name = f"Company {number:03} {'GmbH' if country in ('DE', 'AT') else 'B.V.'}"
        account = services.open_account(name=name, now=born)
        vat_id = next(numbers[country])
        vies.traders[vat_id] = Trader(name, city)
        company = _house(account, country, pool, number, born, luck)
        fields = {
            "legal_name": name,
            "street": f"Street {number}",
            "postcode": postcode,
            "city": city,
            "country": country,
            "vat_id": vat_id,
            "email": f"billing@company{number:03}.example",
        }
        profiles.set_profile(account.id, fields, actor=audit.SYSTEM, now=born)
        _agree(account, number, born)
        made.append(company)
    return made


def _publish(born: datetime) -> None:
    prices.publish_defaults(actor=audit.SYSTEM, now=born)
    for meter, amount in PRICES.items():
        prices.publish(
            actor=audit.SYSTEM,
            meter=meter,
            device_kind=KIND,
            amount=amount,
            valid_from=born.replace(day=1, hour=0, minute=0),
            now=born,
        )


def _agree(account: Account, number: int, born: datetime) -> None:
    """Of ten, one pays less from some minute of the month on, one has hours free, one has promised
    to spend, and one gets a tier."""
    start = months.start_of(born + timedelta(days=31))
    terms: dict[int, Allowance | Commitment | Tier] = {
        5: Allowance("", start, meter=Meter.DEVICE_SECONDS, quantity=7 * 3600),
        7: Commitment("", start, Decimal("400.00")),
        9: Tier("", start, Meter.DEVICE_SECONDS, 20 * 3600, 100),
    }
    if term := terms.get(number % 10):
        agreements.agree(actor=audit.SYSTEM, account_id=account.id, term=term, now=born)
    elif number % 10 == 3:
        prices.publish(
            actor=audit.SYSTEM,
            meter=Meter.DEVICE_SECONDS,
            device_kind=KIND,
            amount=Decimal("2.199"),
            valid_from=start + timedelta(days=13, hours=9, minutes=17),
            now=born,
            account_id=account.id,
        )


def _house(
    account: Account, country: str, pool: Pool, number: int, born: datetime, luck: random.Random
) -> Company:
    organization = Organization.objects.create(
        name=account.name, region_code=pool.region_id, account=account, created_at=born
    )
    projects = tuple(
        Project.objects.create(organization=organization, name=name, created_at=born)
        for name in ("scouts", "writers")[: 1 + number % 2]
    )
    endpoints = tuple(
        Endpoint.objects.create(
            project=luck.choice(projects),
            pool=pool,
            region_code=pool.region_id,
            name=f"model-{nth}",
            model="org/model",
            device_kind=KIND,
            device_count=luck.choice(_DEVICES),
            created_at=born,
        )
        for nth in range(luck.choice(_OWN_ENDPOINTS))
    )
    for one in endpoints:
        EndpointVersion.objects.create(
            endpoint=one, number=1, spec=version_spec.spec_of(one), created_at=born
        )
    return Company(account, organization, country, projects, endpoints)


def _numbers(shape: str, luck: random.Random) -> Iterator[str]:
    """Numbers of a shape with the right check digits, each once."""
    seen = set()
    while True:
        number = "".join(str(luck.randrange(10)) if sign == "d" else sign for sign in shape)
        if number not in seen and vat.is_valid(number):
            seen.add(number)
            yield number
