"""What the signer is told, from the environment (docs/settings.md)."""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path


class SettingError(Exception):
    """A setting is unusable; the message names it."""


@dataclass(frozen=True)
class Settings:
    """`peers`: the user ids that may ask, besides the signer's own."""

    socket: Path
    directory: Path
    name: str
    peers: frozenset[int]

    @classmethod
    def from_environment(cls) -> "Settings":
        var = Path(os.environ.get("STOA_VAR_DIR") or "var").absolute()
        directory = Path(os.environ.get("STOA_SIGNER_DIR") or var / "signer")
        socket = Path(os.environ.get("STOA_SIGNER_SOCKET") or directory / "socket")
        if len(os.fsencode(socket)) > 107:
            raise SettingError(f"STOA_SIGNER_SOCKET={socket}: longer than a socket's name may be")
        # The same as the control plane's.
        hosts = (os.environ.get("STOA_ALLOWED_HOSTS") or "localhost").split(",")
        name = os.environ.get("STOA_LOG_ORIGIN") or hosts[0].strip()
        if not name or "+" in name or any(each.isspace() for each in name):
            raise SettingError("STOA_LOG_ORIGIN: expected one word, such as stoa.example")
        words = os.environ.get("STOA_SIGNER_PEERS", "").split(",")
        peers = frozenset(_user_id(word.strip()) for word in words if word.strip())
        return cls(socket, directory, name, peers | {os.geteuid()})


def _user_id(word: str) -> int:
    if word.isdecimal():
        return int(word)
    try:
        return pwd.getpwnam(word).pw_uid
    except KeyError:
        raise SettingError(f"STOA_SIGNER_PEERS: nobody is called {word!r}") from None
