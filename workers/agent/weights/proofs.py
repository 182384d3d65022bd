"""That a project opened what is not public, with its own credentials, and when.

A proof is asked anew at each start. Where the source cannot be reached, one of the same
credentials holds for HOLDS_S: a hub that is down must not keep an endpoint asleep.
"""

import hashlib
from pathlib import Path

import msgspec

from workers.agent import files

HOLDS_S = 86_400.0


class _Proof(msgspec.Struct):
    credentials: str  # a digest: the proof ends when they change
    at: float  # Unix seconds


class Proofs:
    def __init__(self, root: Path) -> None:
        self._root = root

    def give(self, key: str, project_id: str, credentials: str, now: float) -> None:
        proof = _Proof(_digest(credentials), now)
        files.write(self._path(key, project_id), msgspec.json.encode(proof), durable=False)

    def withdraw(self, key: str, project_id: str) -> None:
        files.remove(self._path(key, project_id))

    def holds(self, key: str, project_id: str, credentials: str, now: float) -> bool:
        content = files.read(self._path(key, project_id))
        if content is None:
            return False
        try:
            proof = msgspec.json.decode(content, type=_Proof)
        except msgspec.DecodeError:
            return False
        return proof.credentials == _digest(credentials) and 0 <= now - proof.at < HOLDS_S

    def _path(self, key: str, project_id: str) -> Path:
        name = hashlib.sha256(f"{key}\0{project_id}".encode()).hexdigest()[:32]
        return self._root / f"{name}.json"


def _digest(credentials: str) -> str:
    return hashlib.sha256(b"stoa proof\0" + credentials.encode()).hexdigest()
