"""A region, two organizations with everything in them, and the operator."""

import pytest
from django.test import Client

from compliance import audit
from controlplane.fleet import services as fleet
from tests.api import house
from tests.api.house import House


@pytest.fixture
def region(db: None) -> None:
    fleet.create_region(
        code="eu-de-1", country="DE", name="Germany", actor=audit.SYSTEM, now=house.NOW
    )


@pytest.fixture
def alice(region: None) -> House:
    return house.build("alice")


@pytest.fixture
def mallory(region: None) -> House:
    return house.build("mallory")


@pytest.fixture
def operator(region: None) -> Client:
    return house.signed_in(house.user("operator@stoa.example", operator=True))
