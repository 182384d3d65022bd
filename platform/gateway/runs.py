"""Which run and which agent a request belongs to, as pseudonyms.

`x-stoa-run: research-42/summaries` names a run and the one above it; without it, OpenAI's
`metadata.stoa_run`, or the trace id of `traceparent`. Names are personal data and stay in memory:
what is counted, spooled and billed is a keyed hash, scoped to the project, so that one tenant
cannot name another's run.
"""

import re
from collections.abc import Mapping

import msgspec

from billing import pseudonyms
from gateway.budgets import NO_RUN, Run
from gateway.errors import bad_request

DEPTH_MAX = 8
_TRACE = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")
_NO_TRACE = b"0" * 32
_METADATA = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_KNOWN_MAX = 50_000


class Runs:
    """Remembers the pseudonyms of recent names: hashing costs a microsecond each."""

    def __init__(self, pepper: bytes) -> None:
        self._key = pseudonyms.key(pepper)
        self._known: dict[tuple[str, str, str], Run] = {}

    def of(
        self, project_id: str, headers: Mapping[bytes, bytes], metadata: msgspec.Raw | None
    ) -> Run:
        """Raises 400 for a name that is none."""
        run = headers.get(b"x-stoa-run")
        agent = headers.get(b"x-stoa-agent")
        if run is None and agent is None and metadata is None and b"traceparent" not in headers:
            return NO_RUN
        path = _text(run, "x-stoa-run") or _noted(metadata, "stoa_run") or _trace(headers)
        name = _text(agent, "x-stoa-agent") or _noted(metadata, "stoa_agent")
        known = self._known.get((project_id, path, name))
        if known is None:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            known = self._known[project_id, path, name] = self._make(project_id, path, name)
        return known

    def _make(self, project_id: str, path: str, agent: str) -> Run:
        parts = path.split("/") if path else []
        if len(parts) > DEPTH_MAX:
            raise bad_request("run_too_deep", f"A run is at most {DEPTH_MAX} levels deep.")
        for part in parts:
            _check(part, "x-stoa-run")
        if agent:
            _check(agent, "x-stoa-agent")
        refs = tuple(
            self.run_ref(project_id, "/".join(parts[: depth + 1])) for depth in range(len(parts))
        )
        return Run(refs, pseudonyms.agent(self._key, project_id, agent) if agent else "")

    def named(self, project_id: str, path: str) -> str:
        """The reference of the run at `path`. Raises 400 for a name that is none."""
        if not path.isascii():
            _check("", "x-stoa-run")
        return self._make(project_id, path, "").refs[-1]

    def run_ref(self, project_id: str, path: str) -> str:
        """What a run is called in budgets, usage and reports: `run_…`."""
        return pseudonyms.run(self._key, project_id, path)


def _check(name: str, where: str) -> None:
    if not pseudonyms.NAME.fullmatch(name):
        message = f"`{where}` takes letters, digits and ._:@- only, at most 128 in each name."
        raise bad_request("invalid_run", message, where)


def _text(value: bytes | None, where: str) -> str:
    if value is None:
        return ""
    if not value.isascii():
        _check("", where)
    return value.decode("ascii")


def _noted(metadata: msgspec.Raw | None, name: str) -> str:
    if metadata is None or name.encode() not in bytes(metadata):
        return ""
    try:
        return _TEXT.decode(_METADATA.decode(metadata)[name])
    except (msgspec.DecodeError, KeyError):
        return ""


def _trace(headers: Mapping[bytes, bytes]) -> str:
    found = _TRACE.fullmatch(headers.get(b"traceparent", b""))
    return found[1].decode() if found and found[1] != _NO_TRACE else ""
