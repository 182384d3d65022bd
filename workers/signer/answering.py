"""What the signer answers to each question. One at a time: the caller holds a lock.

    {"op": "checkpoint", "origin": …, "size": …, "root": BASE64, "proof": [BASE64, …]}
                                                   → {"note": …} | {"refused": CODE, "size": …}
        `proof`: from the last size that was signed (`head` says it) to this one
    {"op": "head", "origin": …}                    → {"size": …, "root": …, "note": …, "closed": …}
    {"op": "close", "origin": …}                   → the same: no further head of it is signed
    {"op": "manifest", "origin": …, "kind": …, "sha256": HEX} → {"note": …}
    {"op": "vkey"}                                 → {"vkey": …}
    {"op": "rotate"}                               → {"vkey": …, "note": …}
        the next key, drawn once, and its announcement, which both keys sign. From here on both
        sign all
    {"op": "retire", "vkey": …}                    → {"vkey": …}: that next key alone signs

Codes: malformed, smaller, inconsistent, closed, foreign (an origin of another installation), next
(that key is not the one that is to take over).
"""

import base64
import binascii
import json
import re
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance.log import merkle, notes
from workers.signer.memory import Head, Memory, draw_next, next_key, take_over

MAX_PROOF = 2 * 64  # hashes: no tree that anybody can grow needs more
_KIND = re.compile(r"[a-z][a-z0-9_]{0,47}")
_DIGEST = re.compile(r"[0-9a-f]{64}")

Answer = dict[str, Any]


class _Refused(Exception):
    def __init__(self, code: str, **facts: Any) -> None:
        super().__init__(code)
        self.answer = {"refused": code, **facts}


class Signer:
    """`directory`: where its keys lie."""

    def __init__(self, name: str, key: Ed25519PrivateKey, memory: Memory, directory: Path) -> None:
        self._name = name
        self._key = key
        self._next = next_key(directory)
        self._memory = memory
        self._directory = directory

    def answer(self, line: bytes) -> Answer:
        try:
            asked = json.loads(line)
            if not isinstance(asked, dict):
                raise _Refused("malformed")
            what = _OPS.get(str(asked.get("op")))
            if what is None:
                raise _Refused("malformed")
            return what(self, asked)
        except _Refused as refused:
            return refused.answer
        except (ValueError, RecursionError, notes.NoteError):
            return {"refused": "malformed"}

    def checkpoint(self, asked: Answer) -> Answer:
        origin, size, root = self._origin(asked), asked.get("size"), _hash(asked.get("root"))
        proof = asked.get("proof", [])
        if type(size) is not int or not 0 <= size < 1 << 62:
            raise _Refused("malformed")
        if not isinstance(proof, list) or len(proof) > MAX_PROOF:
            raise _Refused("malformed")
        last = self._memory.head(origin) or Head(0, merkle.EMPTY_ROOT, "")
        if last.closed:
            raise _Refused("closed", size=last.size)
        if size < last.size:
            raise _Refused("smaller", size=last.size)
        hashes = [_hash(each) for each in proof]
        if not merkle.consistent(last.size, last.root, size, root, hashes):
            raise _Refused("inconsistent", size=last.size)
        note = self._signed(notes.checkpoint(origin, size, root))
        if note != last.note:
            self._memory.keep(origin, Head(size, root, note))
        return {"note": note}

    def head(self, asked: Answer) -> Answer:
        found = self._memory.head(self._origin(asked)) or Head(0, merkle.EMPTY_ROOT, "")
        root = base64.b64encode(found.root).decode()
        return {"size": found.size, "root": root, "note": found.note, "closed": found.closed}

    def close(self, asked: Answer) -> Answer:
        origin = self._origin(asked)
        last = self._memory.head(origin) or Head(0, merkle.EMPTY_ROOT, "")
        self._memory.keep(origin, Head(last.size, last.root, last.note, closed=True))
        return self.head(asked)

    def manifest(self, asked: Answer) -> Answer:
        kind, digest = str(asked.get("kind")), str(asked.get("sha256"))
        if not _KIND.fullmatch(kind) or not _DIGEST.fullmatch(digest):
            raise _Refused("malformed")
        # Three lines, as a checkpoint has, and never one: the second is no number.
        text = f"{self._origin(asked)}/bundle\n{kind}\n{digest}\n"
        return {"note": self._signed(text)}

    def vkey(self, asked: Answer) -> Answer:
        return {"vkey": self._vkey(self._key)}

    def rotate(self, asked: Answer) -> Answer:
        self._next = self._next or draw_next(self._directory)
        new = self._vkey(self._next)
        return {"vkey": new, "note": self._signed(notes.rotation(self._name, new))}

    def retire(self, asked: Answer) -> Answer:
        if self._vkey(self._key) != asked.get("vkey"):  # else it was done, and is asked again
            if self._next is None or self._vkey(self._next) != asked.get("vkey"):
                raise _Refused("next")
            take_over(self._directory)
            self._key, self._next = self._next, None
        return self.vkey(asked)

    def _signed(self, text: str) -> str:
        note = notes.sign(text, self._name, self._key)
        return notes.cosign(note, self._name, self._next) if self._next else note

    def _vkey(self, key: Ed25519PrivateKey) -> str:
        return notes.verifier(self._name, key).vkey()

    def _origin(self, asked: Answer) -> str:
        origin = asked.get("origin")
        if not isinstance(origin, str) or not origin.startswith(f"{self._name}/"):
            raise _Refused("foreign")
        notes.checkpoint(origin, 0, merkle.EMPTY_ROOT)  # raises on what no origin can be
        return origin


_OPS = {
    "checkpoint": Signer.checkpoint,
    "head": Signer.head,
    "close": Signer.close,
    "manifest": Signer.manifest,
    "vkey": Signer.vkey,
    "rotate": Signer.rotate,
    "retire": Signer.retire,
}


def _hash(value: Any) -> bytes:
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise _Refused("malformed") from None
    if len(raw) != merkle.HASH_BYTES:
        raise _Refused("malformed")
    return raw
