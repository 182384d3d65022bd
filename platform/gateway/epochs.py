"""When the counters of an earlier life end.

The shared table is an epoch: with it end the leases that it held. They may be granted anew once
all that was spent of them has arrived, so an epoch is closed when every spool folder that stood
there when the next one began is shipped and gone. An epoch that this folder does not know (its
disk was lost) is never closed from here: an operator writes it off.
"""

import contextlib
from pathlib import Path

import msgspec

from gateway import disk, store

_CLOSE = "SELECT billing_close_leases(%s, %s)"


class _Known(msgspec.Struct):
    epoch: str = ""
    older: list[str] = []
    before: list[str] = []  # folders of the spool that belong to the older ones


class Epochs:
    """`folder` is the gateway's, `spool` the one in it that its processes share."""

    def __init__(self, folder: Path, spool: Path, gateway_id: str) -> None:
        self._path = folder / "epochs.json"
        self._spool = spool
        self._gateway_id = gateway_id

    def begin(self, epoch: str) -> None:
        """A table was made; call it before any process writes under it. Raises OSError."""
        known = self._read()
        if known.epoch == epoch:
            return
        older = [*known.older, known.epoch] if known.epoch else known.older
        before = sorted({*known.before, *(path.name for path in self._spool.glob("writer-*"))})
        self._write(_Known(epoch, older, before))

    async def close_older(self, store: store.Store) -> bool:
        """Whether there is nothing more to close. Raises psycopg.Error, OSError."""
        known = self._read()
        if not known.older:
            return True
        if any((self._spool / name).exists() for name in known.before):
            return False
        async with store.connection() as connection:
            await connection.execute(_CLOSE, (self._gateway_id, known.older))
        # Whoever is faster: both have told the same.
        self._write(_Known(known.epoch))
        return True

    def _read(self) -> _Known:
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            return msgspec.json.decode(self._path.read_bytes(), type=_Known)
        return _Known()

    def _write(self, known: _Known) -> None:
        disk.replace(self._path, msgspec.json.encode(known))
