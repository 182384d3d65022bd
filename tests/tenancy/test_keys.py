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
    assert keys.verify(secret, key)
    assert not keys.verify(secret, ours.key)


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
