"""The agents' door as a process: real TLS, the real agent's client, and what gets in."""

import asyncio
import ssl
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from django.utils import timezone

from compliance import audit
from controlplane.fleet import (
    agent_rollouts,
    authority,
    bundle,
    issuance,
    joining,
    services,
    wire,
)
from controlplane.fleet.models import Node, Pool, Region
from tests.api.door import Door, play
from tests.batches.live import Django
from tests.gateway.house import eventually
from workers.agent import client, credential, settings, threads, tls, updating
from workers.agent.credential import Identity
from workers.local.embedded import free_port

pytestmark = pytest.mark.django_db(transaction=True)


def place(code: str) -> Pool:
    now = timezone.now()
    region = services.create_region(code=code, country="DE", name=code, actor=audit.SYSTEM, now=now)
    return services.create_pool(region=region, name=f"pool-{code}", actor=audit.SYSTEM, now=now)


@pytest.fixture
def pool(db: None) -> Pool:
    return place("eu-de-1")


@pytest.fixture
def url(pool: Pool, tmp_path: Path) -> Iterator[str]:
    """Where the door of this test's database listens."""
    django, port = Django(tmp_path, 1), free_port()
    process = django.start("door", "controlplane", "agents_door", "--port", str(port))
    unproved = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unproved.check_hostname, unproved.verify_mode = False, ssl.CERT_NONE
    digest = joining.pin(pool.region).removeprefix("sha256:")
    address = f"https://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, django.log("door")
        try:
            path = f"{address}/agent/v1/authority/{digest}"
            return httpx.get(path, verify=unproved).status_code == 200
        except httpx.TransportError:
            return False

    try:
        eventually(answers, within_s=60)
        yield address
    finally:
        django.stop()


def joined(url: str, pool: Pool, directory: Path) -> Identity:
    """As `stoa-agent join` does it, patiently: a new region's door may take a moment to open."""
    directory.mkdir(exist_ok=True)
    _, secret = services.issue_enrollment_token(pool=pool, actor=audit.SYSTEM, now=timezone.now())
    key = credential.pending_key(directory)
    message = wire.EnrollRequest(
        token=secret,
        name=directory.name,
        csr_pem=credential.request(key, directory.name),
        agent_version="0.1.0",
    )

    async def enroll() -> wire.Credential:
        pem = await tls.fetch_authority(url, joining.pin(pool.region))
        backoff = client.Backoff(cap_s=1.0)
        async with client.Client(url, authority_pem=pem) as calls:
            while True:
                try:
                    return await calls.enroll(message)
                except client.Unavailable:
                    await asyncio.sleep(backoff.next())

    answer = asyncio.run(asyncio.wait_for(enroll(), 60))
    return credential.accept(directory, url=url, key=key, credential=answer)


def ask(
    url: str, identity: Identity, between: Callable[[client.Client], None] = lambda _: None
) -> wire.Desired:
    async def asked() -> wire.Desired:
        async with client.Client(url, identity) as calls:
            between(calls)
            return await calls.desired(0, 0)

    return asyncio.run(asyncio.wait_for(asked(), 60))


def test_nodes_of_every_region_get_in_by_their_own_authority(
    url: str, pool: Pool, tmp_path: Path
) -> None:
    first = joined(url, pool, tmp_path / "first")
    assert ask(url, first).version == 1
    # A region that is founded while the door is open, beside one whose key nobody can open.
    place("eu-be-1")
    Region.objects.filter(code="eu-be-1").update(ca_key=b"altered")
    other = joined(url, place("eu-fr-1"), tmp_path / "other")
    assert other.credential.region == "eu-fr-1"
    assert ask(url, other).version == 1


def test_who_signs_is_who_is_connected(url: str, pool: Pool, tmp_path: Path) -> None:
    ours, theirs = joined(url, pool, tmp_path / "a"), joined(url, pool, tmp_path / "b")

    def impersonate(calls: client.Client) -> None:
        calls._as = (theirs, calls.tls)

    with pytest.raises(client.Refused, match="another certificate than the connection"):
        ask(url, ours, impersonate)

    def hide(calls: client.Client) -> None:
        """Sign well, and show nothing in the handshake."""
        calls.use(None)
        calls._as = (ours, calls.tls)

    with pytest.raises(client.Refused, match="another certificate than the connection"):
        ask(url, ours, hide)


def test_a_node_cannot_pass_for_the_control_plane(url: str, pool: Pool, tmp_path: Path) -> None:
    """Its certificate is of the same authority, and its wildcard does not reach the door's name."""
    node = joined(url, pool, tmp_path / "node")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.show(server, node)

    async def call() -> None:
        listener = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=server)
        port = listener.sockets[0].getsockname()[1]
        async with listener, client.Client(f"https://127.0.0.1:{port}", node) as calls:
            await calls.desired(0, 0)

    with pytest.raises(client.Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        asyncio.run(call())


def test_a_pin_that_names_another_authority_ends_the_joining(url: str) -> None:
    stranger = authority.create("eu-de-1", now=timezone.now())
    with pytest.raises(tls.PinError, match="no authority of this pin"):
        asyncio.run(tls.fetch_authority(url, authority.pin(stranger.certificate_pem)))
    with pytest.raises(tls.PinError, match="64 hexadecimal"):
        asyncio.run(tls.fetch_authority(url, "sha256:abc"))


def test_what_expired_is_refused_with_words_and_what_another_signed_in_the_handshake(
    url: str, pool: Pool, tmp_path: Path
) -> None:
    held = joined(url, pool, tmp_path / "node")
    node = Node.objects.get()
    key = held.key.public_key()
    opened = issuance.opened(pool.region)
    past = timezone.now() - timedelta(days=2)
    old = authority.node_certificate(
        opened, key, node_id=node.id, now=past, lifetime=timedelta(days=1)
    )
    with pytest.raises(client.Refused, match="expired"):
        ask(url, credential.Identity(url, held.key, held.credential, old))
    stranger = authority.create("eu-de-1", now=past)
    forged = authority.node_certificate(
        stranger, key, node_id=node.id, now=timezone.now(), lifetime=timedelta(days=1)
    )
    with pytest.raises(client.Unavailable, match="no answer"):
        ask(url, credential.Identity(url, held.key, held.credential, forged))


def test_renewal_changes_the_connections_and_loses_no_call(
    url: str, pool: Pool, tmp_path: Path
) -> None:
    directory = tmp_path / "node"
    held = joined(url, pool, directory)

    async def scene() -> None:
        async with client.Client(url, held) as calls:
            polling = asyncio.create_task(calls.desired(1, 3.0))  # on the old connection
            await calls.desired(0, 0)
            key = credential.pending_key(directory)
            answer = await calls.renew(wire.RenewRequest(csr_pem=credential.request(key, "node")))
            renewed = credential.accept(directory, url=url, key=key, credential=answer)
            calls.use(renewed)
            assert (await calls.desired(0, 0)).version == 1
            assert (await polling).version == 1
            assert len(calls._flying) <= 1  # what showed the old certificate is closed

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_a_release_is_fetched_by_its_hash_and_believed_for_it(
    url: str, pool: Pool, tmp_path: Path
) -> None:
    held = joined(url, pool, tmp_path / "node")
    kept = agent_rollouts.release(timezone.now())

    def fetched(sha256: str) -> bytes:
        async def scene() -> bytes:
            async with client.Client(url, held) as calls:
                updater = updating.Updater(settings.read({}), calls, lambda: None)
                release = wire.AgentRelease(sha256=sha256, version="next")
                return await threads.call(updater._fetched, release)

        return asyncio.run(asyncio.wait_for(scene(), 60))

    assert fetched(kept.sha256) == bundle.current().content
    with pytest.raises(client.Rejected, match="no such release"):
        fetched("0" * 64)


def test_agents_of_today_are_sent_from_the_web_process_to_the_door(tmp_path: Path) -> None:
    async def scene(door: Door) -> None:
        headers = {wire.VERSION_HEADER: "2"}
        for method, path in (("POST", "enroll"), ("GET", "desired")):
            answer = await door.http.request(method, f"/agent/v1/{path}", headers=headers)
            assert answer.status_code == 403, answer.text
            assert answer.json()["code"] == "agents_door"

    play(scene)
