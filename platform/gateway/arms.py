"""Which version of an endpoint answers a request while a canary is out. Pure.

What belongs together goes to one version, so that prefix caches work: the calls of a run, what
names one `prompt_cache_key`, the turns of a conversation (all up to its first user message). The
hash is the rollout's own: the next one tries another part of the traffic, and within one the
canary keeps what it had when its share grows. What has no such key is spread at random.
"""

import random
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import msgspec

from gateway.budgets import Run
from gateway.directory import Replica, Rollout

_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_WHOLE = float(1 << 64)


class _Message(msgspec.Struct):
    role: object = None


_MESSAGE = msgspec.json.Decoder(_Message)


def fresh(rollout: Rollout, run: Run, fields: Mapping[str, msgspec.Raw]) -> bool:
    """Whether it is the new version's; a share of None means that no part is set aside."""
    if rollout.share is None:
        return False
    key = run.refs[0].encode() if run.refs else _conversation(fields)
    if not key:
        return random.random() * 100 < rollout.share
    digest = blake2b(key, digest_size=8, key=rollout.id.encode()).digest()
    return int.from_bytes(digest, "big") / _WHOLE * 100 < rollout.share


def allowed(
    rollout: Rollout, new: bool, roomy: Sequence[Replica], standing: Sequence[str]
) -> Sequence[Replica]:
    """Of replicas that have room those that may take it. `standing`: ids of all that are not out.

    What is the new version's goes to the old one where the new one has no room. The other way
    only when no old one is there at all: a canary gets no more than its share.
    """
    mine = [one for one in roomy if (one.id in rollout.replica_ids) is new]
    if mine or new:
        return mine or roomy
    old = any(id not in rollout.replica_ids for id in standing)
    return () if old else roomy


def _conversation(fields: Mapping[str, msgspec.Raw]) -> bytes:
    """What stays the same from turn to turn; empty where nothing does."""
    named = fields.get("prompt_cache_key")
    if named is not None:
        return bytes(named)
    for name in ("messages", "input"):
        if name in fields:
            return _opening(bytes(fields[name]))
    return b""


def _opening(turns: bytes) -> bytes:
    """All messages up to the first of the user."""
    try:
        items = _ITEMS.decode(turns)
    except msgspec.DecodeError:
        return b""  # one text: nothing says what it goes on from
    opening = b""
    for item in items:
        opening += bytes(item)
        try:
            role = _MESSAGE.decode(item).role
        except msgspec.DecodeError:
            return b""
        if role == "user":
            break
    return opening
