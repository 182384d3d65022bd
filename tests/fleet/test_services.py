"""Regions, pools, tokens, and what an operator does with a node."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from django.db import connection

from compliance import audit, sealing
from compliance.models import AuditEvent
from controlplane.fleet import authority, errors, issuance, regions, revoking, services
from controlplane.fleet.models import EnrollmentToken, Node, Pool, Region
from controlplane.tenancy.models import Organization
from tests.fleet.machine import Join, Machine, report

HOUR = timedelta(hours=1)


def _actions() -> list[str]:
    return list(AuditEvent.objects.order_by("id").values_list("action", flat=True))


def _enroll(secret: str, now: datetime, machine: Machine | None = None) -> Node:
    node, _ = services.enroll(
        token=secret,
        csr_pem=(machine or Machine()).csr,
        name="gpu-1",
        agent_version="0.1.0",
        now=now,
    )
    return node


def _token(pool: Pool, now: datetime, node: Node | None = None) -> str:
    _, secret = services.issue_enrollment_token(pool=pool, node=node, actor=audit.SYSTEM, now=now)
    return secret


# --- Places ---------------------------------------------------------------------------


def test_countries_are_the_twenty_seven() -> None:
    assert len(regions.COUNTRIES) == 27
    assert not {"GB", "CH", "NO", "US", "EL"} & regions.COUNTRIES.keys()


def test_region_keeps_its_authoritys_key_sealed(region: Region) -> None:
    assert b"PRIVATE KEY" not in bytes(region.ca_key)
    assert issuance.opened(region).certificate_pem == region.ca_certificate
    moved = Region(code="eu-fr-1", ca_certificate=region.ca_certificate, ca_key=region.ca_key)
    with pytest.raises(sealing.SealBroken):
        issuance.opened(moved)
    assert _actions() == ["region.create"]


@pytest.mark.parametrize(
    ("code", "country", "name", "error"),
    [
        ("eu-ch-1", "CH", "Zürich", errors.InvalidRegion),
        ("eu-de-2", "de", "Berlin", errors.InvalidRegion),
        ("EU-DE-2", "DE", "Berlin", errors.InvalidRegion),
        ("eu-de-2/node/x", "DE", "Berlin", errors.InvalidRegion),
        ("eu-de-2\n", "DE", "Berlin", errors.InvalidRegion),
        ("eu-" + "x" * 32, "DE", "Berlin", errors.InvalidRegion),
        ("eu-de-2", "DE", "Ber\x07lin", errors.InvalidName),
        ("eu-de-2", "DE", "   ", errors.InvalidName),
        ("eu-de-1", "DE", "Frankfurt again", errors.AlreadyExists),
    ],
)
def test_bad_regions_are_refused(
    region: Region, now: datetime, code: str, country: str, name: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        services.create_region(code=code, country=country, name=name, actor=audit.SYSTEM, now=now)
    assert Region.objects.count() == 1
    assert _actions() == ["region.create"]


def test_pool_is_named_once_in_its_region_and_serves_its_regions_tenants(
    region: Region, pool: Pool, now: datetime
) -> None:
    with pytest.raises(errors.AlreadyExists):
        services.create_pool(region=region, name="h200", actor=audit.SYSTEM, now=now)
    stranger = Organization(name="elsewhere", region_code="eu-fr-1")
    with pytest.raises(errors.InvalidRegion):
        services.create_pool(
            region=region, name="x", organization=stranger, actor=audit.SYSTEM, now=now
        )
    assert Pool.objects.count() == 1


# --- Joining --------------------------------------------------------------------------


def test_token_joins_one_machine_to_its_pool(pool: Pool, now: datetime) -> None:
    machine = Machine()
    token, secret = services.issue_enrollment_token(pool=pool, actor=audit.SYSTEM, now=now)
    assert secret.startswith("stoa-enroll-")
    assert len(secret) == len("stoa-enroll-") + 43
    assert secret.encode() not in bytes(token.hash)
    node, credential = services.enroll(
        token=secret, csr_pem=machine.csr, name=" gpu-1 ", agent_version="0.1.0", now=now
    )
    node.refresh_from_db()
    assert (node.name, node.pool, node.agent_version) == ("gpu-1", pool, "0.1.0")
    assert (credential.region, credential.pool) == ("eu-de-1", "h200")
    certificate = x509.load_pem_x509_certificate(credential.certificate_pem.encode())
    assert authority.sha256(certificate) == node.certificate_sha256
    assert authority.identity(certificate) == authority.Identity("eu-de-1", "node", node.id)
    assert certificate.not_valid_after_utc == node.certificate_expires_at == now + 24 * HOUR
    assert certificate.public_key() == machine.key.public_key()
    assert node.reachable(now) is False  # it has not reported yet
    assert _actions()[-2:] == ["enrollment_token.create", "node.enroll"]


def test_second_use_of_a_token_is_refused_and_recorded(pool: Pool, now: datetime) -> None:
    secret = _token(pool, now)
    _enroll(secret, now)
    with pytest.raises(errors.UsedToken, match="used at 2026-03-04 12:00 UTC"):
        _enroll(secret, now + HOUR / 2)
    assert Node.objects.count() == 1
    refusal = AuditEvent.objects.latest("id")
    assert (refusal.action, refusal.outcome) == ("node.refuse", "denied")
    assert b"enrollment_token_used" in bytes(refusal.body)


def test_a_machine_whose_answer_was_lost_asks_again_and_is_the_same_node(
    pool: Pool, now: datetime
) -> None:
    secret, machine = _token(pool, now), Machine()
    lost = _enroll(secret, now, machine)
    for minute in range(1, 4):
        again = _enroll(secret, now + timedelta(minutes=minute), machine)
        again.refresh_from_db()
        assert again.pk == lost.pk
        # Should the other answer arrive after all, it is as good.
        assert again.previous_certificate_sha256 == lost.certificate_sha256
        assert again.certificate_sha256 != lost.certificate_sha256
        lost = again
    assert Node.objects.count() == 1
    assert _actions().count("node.enroll") == 4
    with pytest.raises(errors.UsedToken):
        _enroll(secret, now + HOUR / 2, Machine())
    with pytest.raises(errors.UsedToken):
        _enroll(secret, now + HOUR, machine)  # the token's own time is over
    again.refresh_from_db()
    assert again.certificate_sha256 == lost.certificate_sha256


def test_a_node_that_reported_holds_its_credential(pool: Pool, now: datetime) -> None:
    secret, machine = _token(pool, now), Machine()
    node = _enroll(secret, now, machine)
    assert services.heartbeat(node=node, report=report(), signed_at=now, now=now)
    with pytest.raises(errors.UsedToken):
        _enroll(secret, now + HOUR / 2, machine)
    node.refresh_from_db()
    assert node.previous_certificate_sha256 == ""


def test_a_lost_answer_does_not_bring_a_removed_node_back(pool: Pool, now: datetime) -> None:
    secret, machine = _token(pool, now), Machine()
    node = _enroll(secret, now, machine)
    services.remove_node(node=node, actor=audit.SYSTEM, now=now)
    with pytest.raises(errors.RemovedNode):
        _enroll(secret, now, machine)


def test_a_node_that_joins_again_may_lose_that_answer_too(
    join: Join, pool: Pool, now: datetime
) -> None:
    node, _ = join()
    assert services.heartbeat(node=node, report=report(), signed_at=now, now=now)
    secret, machine = _token(pool, now, node), Machine()
    first = _enroll(secret, now, machine)
    second = _enroll(secret, now, machine)
    assert first.pk == second.pk == node.pk
    assert second.previous_certificate_sha256 == first.certificate_sha256


@pytest.mark.django_db(transaction=True)
def test_of_one_machines_crossing_attempts_every_answer_is_good(pool: Pool, now: datetime) -> None:
    secret, machine = _token(pool, now), Machine()
    start = threading.Barrier(2)
    certificates: list[str] = []

    def use() -> None:
        start.wait(10)
        try:
            _, credential = services.enroll(
                token=secret, csr_pem=machine.csr, name="gpu-1", agent_version="0.1.0", now=now
            )
            certificates.append(credential.certificate_pem)
        finally:
            connection.close()

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(certificates) == 2
    assert Node.objects.count() == 1
    node = Node.objects.get()
    good = {node.certificate_sha256, node.previous_certificate_sha256}
    shown = [x509.load_pem_x509_certificate(pem.encode()) for pem in certificates]
    assert {authority.sha256(one) for one in shown} == good


def test_expired_token_is_refused(pool: Pool, now: datetime) -> None:
    secret = _token(pool, now)
    with pytest.raises(errors.ExpiredToken, match="expired at 2026-03-04 13:00 UTC"):
        _enroll(secret, now + HOUR)
    assert Node.objects.count() == 0
    assert EnrollmentToken.objects.get().used_at is None


@pytest.mark.parametrize("secret", ["", "stoa-enroll-", "stoa-enroll-" + "A" * 43, "\x00é"])
def test_unknown_token_is_refused(pool: Pool, now: datetime, secret: str) -> None:
    with pytest.raises(errors.InvalidToken):
        _enroll(secret, now)


@pytest.mark.parametrize(
    ("name", "version", "csr"),
    [
        ("gpu\x001", "0.1", ""),
        ("", "0.1", ""),
        ("x" * 101, "0.1", ""),
        ("gpu", "v" * 33, ""),
        ("gpu", "0.1", "garbage"),
    ],
)
def test_bad_request_leaves_the_token_good(
    pool: Pool, now: datetime, name: str, version: str, csr: str
) -> None:
    secret = _token(pool, now)
    with pytest.raises((errors.InvalidName, errors.InvalidRequest)):
        services.enroll(
            token=secret,
            csr_pem=csr or Machine().csr,
            name=name,
            agent_version=version,
            now=now,
        )
    assert _enroll(secret, now).name == "gpu-1"


@pytest.mark.django_db(transaction=True)
def test_of_concurrent_uses_exactly_one_wins(pool: Pool, now: datetime) -> None:
    secret = _token(pool, now)
    start = threading.Barrier(8)
    outcomes: list[str] = []

    def use() -> None:
        machine = Machine()
        start.wait(10)
        try:
            _enroll(secret, now, machine)
            outcomes.append("joined")
        except errors.UsedToken:
            outcomes.append("refused")
        finally:
            connection.close()

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) == ["joined"] + ["refused"] * 7
    assert Node.objects.count() == 1


def test_token_of_a_node_lets_that_node_join_again(join: Join, pool: Pool, now: datetime) -> None:
    node, _ = join()
    Node.objects.filter(pk=node.pk).update(previous_certificate_sha256="0" * 64)
    again = _enroll(_token(pool, now, node), now + HOUR / 2)
    assert again.pk == node.pk
    again.refresh_from_db()
    assert again.certificate_sha256 != node.certificate_sha256
    assert again.previous_certificate_sha256 == ""
    assert again.created_at == node.created_at
    assert Node.objects.count() == 1


def test_removed_node_does_not_come_back(join: Join, pool: Pool, now: datetime) -> None:
    node, _ = join()
    secret = _token(pool, now, node)
    services.remove_node(node=node, actor=audit.SYSTEM, now=now)
    with pytest.raises(errors.RemovedNode):
        _enroll(secret, now)
    node.refresh_from_db()
    with pytest.raises(errors.RemovedNode):
        _token(pool, now, node)


def test_renewal_keeps_the_shown_certificate_until_the_new_one_is_seen(
    join: Join, now: datetime
) -> None:
    node, machine = join()
    first = node.certificate_sha256
    node, _ = services.renew(node=node, csr_pem=machine.csr, presented_sha256=first, now=now + HOUR)
    assert node.previous_certificate_sha256 == first
    lost = node.certificate_sha256
    # The reply was lost: the agent asks again with the certificate that it has.
    node, _ = services.renew(node=node, csr_pem=machine.csr, presented_sha256=first, now=now + HOUR)
    assert node.previous_certificate_sha256 == first
    assert node.certificate_sha256 not in (lost, first)
    with pytest.raises(errors.SupersededCredential):
        services.renew(node=node, csr_pem=machine.csr, presented_sha256=lost, now=now + HOUR)


def test_renewal_is_due_at_half_life(join: Join, now: datetime) -> None:
    node, _ = join()
    assert not services.renewal_due(node.certificate_expires_at, now + 12 * HOUR)
    assert services.renewal_due(node.certificate_expires_at, now + 12 * HOUR + timedelta(seconds=1))


def test_gateway_certificate_is_issued_and_recorded(region: Region, now: datetime) -> None:
    machine = Machine()
    pem = revoking.issue_gateway_certificate(
        region=region, gateway_id="gw-1", csr_pem=machine.csr, actor=audit.SYSTEM, now=now
    )
    certificate = x509.load_pem_x509_certificate(pem.encode())
    assert authority.identity(certificate) == authority.Identity("eu-de-1", "gateway", "gw-1")
    assert _actions()[-1] == "gateway.enroll"


# --- Keeping --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "action"),
    [
        (services.cordon, "node.cordon"),
        (services.drain, "node.drain"),
        (services.remove_node, "node.delete"),
    ],
)
def test_verb_acts_and_records_once(
    join: Join, now: datetime, verb: Callable[..., Node], action: str
) -> None:
    node, _ = join()
    version = node.desired_version
    verb(node=node, actor=audit.SYSTEM, now=now)
    verb(node=node, actor=audit.SYSTEM, now=now + HOUR)
    node.refresh_from_db()
    assert node.cordoned_at == now
    assert not node.schedulable(now)
    assert node.desired_version == version + 1
    assert _actions().count(action) == 1


def test_uncordon_ends_a_drain(join: Join, now: datetime) -> None:
    node, _ = join()
    services.drain(node=node, actor=audit.SYSTEM, now=now)
    node = services.uncordon(node=node, actor=audit.SYSTEM, now=now)
    assert (node.cordoned_at, node.drain_requested_at) == (None, None)
    services.uncordon(node=node, actor=audit.SYSTEM, now=now)
    assert _actions().count("node.uncordon") == 1


@pytest.mark.parametrize("verb", [services.cordon, services.uncordon, services.drain])
def test_removed_node_is_past_all_verbs(
    join: Join, now: datetime, verb: Callable[..., Node]
) -> None:
    node, _ = join()
    services.remove_node(node=node, actor=audit.SYSTEM, now=now)
    with pytest.raises(errors.RemovedNode):
        verb(node=node, actor=audit.SYSTEM, now=now)
