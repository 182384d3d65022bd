"""The signer's client: what the house has signed, and what it is told where that is refused.

A connection for each question: the signer answers in a millisecond, and is asked once a minute.
"""

import base64
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from compliance.log import notes

TIMEOUT_S = 10.0
_MAX_ANSWER = 1 << 16


class SignerAway(Exception):
    """Nobody answers on the signer's socket, or not in a way that it would."""


class Refused(Exception):
    """The signer does not sign this. `code`: smaller, inconsistent, closed, foreign,
    malformed, next."""

    def __init__(self, code: str, facts: dict[str, Any]) -> None:
        super().__init__(f"the signer refuses: {code}")
        self.code = code
        self.facts = facts


@dataclass(frozen=True)
class Head:
    """The last that was signed of an origin; size 0 and no note where nothing was."""

    size: int
    root: bytes
    note: str
    closed: bool


def checkpoint(origin: str, size: int, root: bytes, proof: Sequence[bytes]) -> str:
    """The signed note of a log's head; `proof` leads from the last signed size (`head`) to it.

    Raises Refused and SignerAway.
    """
    said = _ask(op="checkpoint", origin=origin, size=size, root=_text(root), proof=_texts(proof))
    return str(said["note"])


def head(origin: str) -> Head:
    return _head(_ask(op="head", origin=origin))


def close(origin: str) -> Head:
    """No further checkpoint of this origin is signed, ever; the last one."""
    return _head(_ask(op="close", origin=origin))


def manifest(kind: str, sha256: str, log: str) -> str:
    """The signed note over a bundle's manifest.

    `log`: what `audit.record` calls the log, an organization's id or "platform"; `kind` a word of
    lower case letters, digits and _; `sha256` in hex. The note's text is
    `<origin>/bundle`, kind and sum, a line each. Raises Refused and SignerAway.
    """
    return str(_ask(op="manifest", kind=kind, sha256=sha256, origin=origin_of(log))["note"])


def vkey() -> str:
    """The public key as a verifier pins it: NAME+ID+BASE64. Raises SignerAway."""
    return str(_ask(op="vkey")["vkey"])


def rotate() -> tuple[str, str]:
    """The vkey of the key that is to take over, drawn once, and its announcement: a note that the
    present key and that one sign. Both sign all from here on. Raises SignerAway."""
    said = _ask(op="rotate")
    return str(said["vkey"]), str(said["note"])


def retire(new: str) -> str:
    """That next key alone signs from here on; asked again, nothing changes. Raises Refused."""
    return str(_ask(op="retire", vkey=new)["vkey"])


def verifier() -> notes.Verifier:
    return notes.parse_vkey(vkey())


def origin_of(log: str, number: int = 1) -> str:
    """`<installation>/audit/t/<organization>`, `…/audit/platform` or `…/audit/meta`.

    `number`: which log of this one it is; the second and further ones follow a restore.
    """
    path = log if log in ("platform", "meta") else f"t/{log}"
    return f"{settings.LOG_ORIGIN}/audit/{path}" + (f"/{number}" if number > 1 else "")


def _ask(**question: Any) -> dict[str, Any]:
    line = json.dumps(question).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect(str(settings.SIGNER_SOCKET))
            connection.sendall(line)
            answer = _line(connection)
    except OSError as error:
        raise SignerAway(f"no signer answers on {settings.SIGNER_SOCKET}: {error}") from error
    if "refused" in answer:
        raise Refused(str(answer["refused"]), answer)
    return answer


def _line(connection: socket.socket) -> dict[str, Any]:
    received = b""
    while not received.endswith(b"\n"):
        piece = connection.recv(_MAX_ANSWER)
        if not piece or len(received) > _MAX_ANSWER:
            raise SignerAway("the signer ended before it had answered")
        received += piece
    try:
        answer = json.loads(received)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise SignerAway("the signer's answer is none")
    return answer


def _head(said: dict[str, Any]) -> Head:
    root = base64.b64decode(said["root"])
    return Head(int(said["size"]), root, str(said["note"]), bool(said["closed"]))


def _text(hash_: bytes) -> str:
    return base64.b64encode(hash_).decode()


def _texts(hashes: Sequence[bytes]) -> list[str]:
    return [_text(each) for each in hashes]
