"""What of a request's head decides where it ends and whom it is for (RFC 9112).

The parser (llhttp, strict) refuses most of what is ambiguous; here is the rest. Who reads in front
of us may have understood it otherwise, so what is not plain is refused.
"""

import re
from collections.abc import Mapping

from gateway import errors
from gateway.errors import ApiError

# uri-host [ ":" port ], without the comma that would hide a second Host line.
_HOST = re.compile(rb"(?:[\w.~!$&'()*+;=%-]*|\[[0-9A-Fa-f:.]+\])(?::\d*)?", re.ASCII)
_WHOLE_ADDRESS = re.compile(rb"https?://([^/?#]+)(/[^#]*|\?[^#]*)?", re.IGNORECASE)
_HOSTS_MAX = 1000
_known_hosts: set[bytes] = set()


def refusal(
    method: str, target: bytes, version: str, headers: Mapping[bytes, bytes], body_limit: int
) -> ApiError | None:
    """Why the request cannot be read; None when it can."""
    coding = headers.get(b"transfer-encoding")
    if method == "CONNECT":
        return errors.wrong_method(method, target.decode("ascii", "replace"))
    if version != "1.1" and version != "1.0":
        return errors.malformed_http(f"its version is {version}")
    if not target:
        return errors.malformed_http("its target is no path and no http address")
    if coding is not None and (version != "1.1" or coding.strip(b" \t").lower() != b"chunked"):
        return errors.malformed_http("unsupported Transfer-Encoding")
    if (host := headers.get(b"host")) not in _known_hosts:
        if host is None:
            return errors.malformed_http("a Host header is missing") if version == "1.1" else None
        if _HOST.fullmatch(host.strip(b" \t")) is None:
            return errors.malformed_http("its Host header is none")
        if len(_known_hosts) < _HOSTS_MAX:
            _known_hosts.add(host)
    if int(headers.get(b"content-length", 0)) > body_limit:
        return errors.body_too_large(body_limit)
    return None


def local(method: str, target: bytes) -> bytes:
    """The path and query of a target that does not begin with a slash; empty if it is none."""
    if target == b"*" and method == "OPTIONS":
        return target
    whole = _WHOLE_ADDRESS.fullmatch(target)
    if whole is None or _HOST.fullmatch(whole[1]) is None:
        return b""
    path = whole[2] or b"/"
    return path if path.startswith(b"/") else b"/" + path
