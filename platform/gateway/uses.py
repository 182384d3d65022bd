"""When each secret of a key was used last: noted in memory, told to PostgreSQL in batches.

Nothing depends on it but what people see before they drop an old secret, so a crash may lose the
last few seconds of it.
"""

import itertools

import msgspec

from gateway import store
from gateway.telling import Telling

_PIECE = 2000

# In one order everywhere: two gateways that tell of the same secrets must not lock crosswise.
_INSERT = """
INSERT INTO tenancy_secretuse (secret_id, gateway_id, used_at)
SELECT u ->> 0, %s, to_timestamp((u ->> 1)::float8) FROM jsonb_array_elements(%s::jsonb) u
"""


class Uses:
    """`noted[secret_id] = now` (Unix seconds) is all that a request does."""

    def __init__(self, store: store.Store, gateway_id: str, every_s: float) -> None:
        self.noted: dict[str, float] = {}
        self._store = store
        self._gateway_id = gateway_id
        self._telling = Telling("uses of keys", self._tell, every_s)

    async def start(self) -> None:
        self._telling.start()

    async def stop(self) -> None:
        await self._telling.stop()

    async def _tell(self) -> None:
        """A piece at a time: of many thousand secrets, the event loop gets its turn in between."""
        told, self.noted = self.noted, {}
        try:
            while told:
                piece = {id: told[id] for id in itertools.islice(told, _PIECE)}
                rows = msgspec.json.encode(sorted(piece.items())).decode()
                async with self._store.connection() as connection:
                    await connection.execute(_INSERT, (self._gateway_id, rows))
                for id in piece:
                    del told[id]
        except BaseException:
            for id, at in told.items():
                self.noted.setdefault(id, at)
            raise
