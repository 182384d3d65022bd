"""Ids of requests: `req_` + 26 characters that sort by birth, like every id of the house.

Drawn for each request, so drawn cheaply: the time part is worked out once a millisecond, the
rest is 64 random bits. The house's own ids (`ep_…`) are made elsewhere, a few a minute.
"""

import os
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_POOL_BYTES = 4096


class RequestIds:
    def __init__(self) -> None:
        self._millis = 0
        self._prefix = ""
        self._pool = ""
        self._next = 0

    def new(self) -> str:
        millis = time.time_ns() // 1_000_000
        if millis != self._millis:
            self._millis = millis
            self._prefix = "req_" + "".join(
                _ALPHABET[millis >> at & 31] for at in range(45, -5, -5)
            )
        start = self._next
        if start == len(self._pool):
            self._pool = os.urandom(_POOL_BYTES).hex()
            start = 0
        self._next = start + 16
        return self._prefix + self._pool[start : start + 16]
