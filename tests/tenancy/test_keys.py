"""Keys as they are presented: good, worn out, altered, and not keys at all."""

import contextlib
import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from hypothesis import given
from hypothesis import strategies as st

from compliance import audit
from controlplane.tenancy import keys, services
from controlplane.tenancy.errors import Conflict, Invalid

NOW = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)


def test_a_key_has_the_form_that_the_gateway_expects() -> None:
    minted = keys.mint()
    assert len(minted.secret) == 60
    assert minted.prefix == minted.secret[:16] == keys.parse(minted.secret)
    expected = hmac.new(settings.KEY_PEPPER, minted.secret.encode(), hashlib.sha256).digest()
    assert minted.hash == expected
    assert keys.mint().secret != minted.secret
    assert minted.secret not in repr(minted)


@pytest.mark.parametrize(
    "presented",
    [
        "",
        "sk-stoa-",
        "sk-stoa-abcdefgh",
        "Bearer x",
        "sk-" + "a" * 48,
        "sk-stoa-abcdefgh-" + "a" * 42,
        "sk-stoa-abcdefgh-" + "a" * 44,
        "sk-stoa-abcdefgh-" + "a" * 43 + "\n",
        "sk-stoa-abcdefgh-" + "a" * 42 + "ü",
        "sk-stoa-abcdefg\x00-" + "a" * 43,
    ],
)
def test_what_is_no_key_is_malformed(presented: str) -> None:
    with pytest.raises(keys.MalformedKey):
        keys.authenticate_key(presented, NOW)


@given(st.text(max_size=80))
def test_no_text_breaks_the_parser(presented: str) -> None:
    with contextlib.suppress(keys.MalformedKey):
        assert presented.startswith(keys.parse(presented))


def test_only_the_whole_key_is_the_key(ours: Any) -> None:
    key, secret = services.issue_key(
        actor=audit.SYSTEM, project=ours.project, name="n", scopes=["manage"], now=NOW
    )
    assert keys.authenticate_key(secret, NOW) == key
    last = "A" if secret[-1] != "A" else "B"
    assert keys.authenticate_key(secret[:-1] + last, NOW) is None
    assert keys.authenticate_key(keys.mint().secret, NOW) is None
    assert keys.verify(secret, key.secrets.get())
    assert not keys.verify(secret, ours.key.secrets.get())


def test_a_key_ends_at_its_expiry_and_with_its_revocation(ours: Any) -> None:
    key, secret = services.issue_key(
        actor=audit.SYSTEM,
        project=ours.project,
        name="n",
        scopes=["manage"],
        expires_at=NOW + timedelta(hours=1),
        now=NOW,
    )
    just_before = NOW + timedelta(minutes=59, seconds=59)
    assert keys.authenticate_key(secret, just_before) == key
    assert keys.authenticate_key(secret, NOW + timedelta(hours=1)) is None
    services.revoke_key(actor=audit.SYSTEM, key=key, now=NOW)
    assert keys.authenticate_key(secret, just_before) is None


def test_after_a_rotation_both_secrets_are_the_key_for_as_long_as_was_chosen(ours: Any) -> None:
    key, old = services.issue_key(
        actor=audit.SYSTEM, project=ours.project, name="n", scopes=["manage"], now=NOW
    )
    rotated, new = services.rotate_key(actor=audit.SYSTEM, key=key, overlap_s=600, now=NOW)
    assert rotated == key
    assert new.startswith(f"{rotated.prefix}-")
    soon, later = NOW + timedelta(minutes=9), NOW + timedelta(minutes=10)
    assert keys.authenticate_key(old, soon) == key
    assert keys.authenticate_key(old, later) is None
    assert keys.authenticate_key(new, later) == key
    newest, oldest = key.secrets.all()
    assert (newest.expires_at, newest.last_used_at) == (None, later)
    assert (oldest.expires_at, oldest.last_used_at) == (later, soon)
    # A second rotation never gives an old secret more time than it has.
    _, newer = services.rotate_key(actor=audit.SYSTEM, key=key, overlap_s=3600, now=NOW)
    oldest.refresh_from_db()
    assert oldest.expires_at == later
    services.revoke_key(actor=audit.SYSTEM, key=key, now=soon)
    for secret in (old, new, newer):
        assert keys.authenticate_key(secret, soon) is None


def test_what_has_ended_is_not_rotated(ours: Any) -> None:
    wrong: list[tuple[int, type[Exception]]] = [(-1, Invalid), (2_592_001, Invalid)]
    for overlap_s, error in wrong:
        with pytest.raises(error):
            services.rotate_key(actor=audit.SYSTEM, key=ours.key, overlap_s=overlap_s, now=NOW)
    services.revoke_key(actor=audit.SYSTEM, key=ours.key, now=NOW)
    with pytest.raises(Conflict):
        services.rotate_key(actor=audit.SYSTEM, key=ours.key, overlap_s=0, now=NOW)
    assert ours.key.secrets.count() == 1


def test_a_rotation_without_overlap_ends_the_old_secret_now(ours: Any) -> None:
    key, old = services.issue_key(
        actor=audit.SYSTEM, project=ours.project, name="n", scopes=["read"], now=NOW
    )
    _, new = services.rotate_key(actor=audit.SYSTEM, key=key, overlap_s=0, now=NOW)
    assert keys.authenticate_key(old, NOW) is None
    assert keys.authenticate_key(new, NOW) == key
