"""What a request counts against: the rate limits and the budgets' counters of its key and run.

Remembered, for it is the same for the next request of the same key and run. What is remembered
holds as long as the key and whatever bounds it are the same things in the directory: another key
that is edited costs nobody else anything.
"""

from collections import OrderedDict

import msgspec

from gateway import errors
from gateway.books import Books, Line
from gateway.budgets import NO_RUN, Run
from gateway.directory import UNLIMITED, Directory, Key, RateLimits
from gateway.rates import Bound, bound
from gateway.records import CHARGES_MAX

_KEYS_MAX = 200_000
_RUNS_MAX = 20_000  # of keys with a run or an agent: these come and go, and take 1 KB each
_KNOWN_NS = 600_000_000_000  # far less than an idle run's counter is kept
_SHARED_MAX = 10_000
_FORGOTTEN_AT_ONCE = 1000  # takes a millisecond

Name = tuple[str, bool, Run]
Limited = tuple[str, str, RateLimits]


class Counted(msgspec.Struct, frozen=True, gc=False):
    """The order is that in which limits are taken, and budgets reserved."""

    lines: tuple[Line, ...]
    limits: tuple[Bound, ...]
    until_ns: int  # Unix nanoseconds: then a window ends, or a run has long been idle
    key: Key
    bounds: object  # the directory's


class Counting:
    """`hosts` gateways share each rate limit."""

    def __init__(self, books: Books, hosts: int = 1) -> None:
        self._books = books
        self._hosts = hosts
        # What was looked up last is last.
        self._of_keys: OrderedDict[Name, Counted] = OrderedDict()
        self._of_runs: OrderedDict[Name, Counted] = OrderedDict()
        self._shared: dict[Limited, Bound] = {}  # of organizations and projects: many keys' own

    def __len__(self) -> int:
        return len(self._of_keys) + len(self._of_runs)

    def of(
        self, directory: Directory, key: Key, run: Run, now_ns: int, *, by_token: bool
    ) -> Counted:
        """Raises 400 where more budgets count than a request can carry."""
        name = key.id, by_token, run
        remembered = self._of_keys if run is NO_RUN else self._of_runs
        known = remembered.get(name)
        if (
            known is not None
            and known.key is key
            and known.bounds is directory.bounds
            and now_ns < known.until_ns
        ):
            return known
        made = remembered[name] = self._look_up(directory, key, run, now_ns, by_token)
        if known is not None:
            remembered.move_to_end(name)
        elif len(remembered) > (_KEYS_MAX if run is NO_RUN else _RUNS_MAX):
            remembered.popitem(last=False)  # one at a time: nobody waits for many
        return made

    def forget(self, directory: Directory, now_ns: int) -> None:
        """Let go of a part of what holds no longer; that of keys that are gone holds for ten
        minutes at most. Call it now and then."""
        for remembered in (self._of_keys, self._of_runs):
            for _ in range(min(len(remembered), _FORGOTTEN_AT_ONCE)):
                oldest = next(iter(remembered.values()))
                if oldest.bounds is directory.bounds and now_ns < oldest.until_ns:
                    break
                remembered.popitem(last=False)

    def _look_up(
        self, directory: Directory, key: Key, run: Run, now_ns: int, by_token: bool
    ) -> Counted:
        found = directory.budgets.of(
            key.organization_id, key.project_id, key.id, run, shared=by_token
        )
        if len(found) > CHARGES_MAX:
            message = f"More than {CHARGES_MAX} budgets count this request: its run is too deep."
            raise errors.bad_request("run_too_deep", message)
        lines, until_us = self._books.lines(found, now_ns // 1000)
        until_ns = min(until_us * 1000, now_ns + _KNOWN_NS)
        limits = self.limits(directory, key)
        return Counted(tuple(lines), limits, until_ns, key, directory.bounds)

    def limits(self, directory: Directory, key: Key) -> tuple[Bound, ...]:
        organization = directory.organization(key.organization_id)
        project = directory.project(key.project_id)
        made = [
            self._bound(whose, one.id, one.rate_limits)
            for whose, one in (("organization", organization), ("project", project))
            if one is not None and one.rate_limits != UNLIMITED
        ]
        if key.rate_limits != UNLIMITED:
            made.append(bound("key", key.id, key.rate_limits, self._hosts))
        return tuple(made)

    def _bound(self, whose: str, id: str, limits: RateLimits) -> Bound:
        name = whose, id, limits
        found = self._shared.get(name)
        if found is None:
            if len(self._shared) > _SHARED_MAX:
                self._shared.clear()
            found = self._shared[name] = bound(whose, id, limits, self._hosts)
        return found
