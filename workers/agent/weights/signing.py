"""AWS Signature Version 4 for requests without a body, as S3 and what speaks like it want it. Pure.

Source: Amazon S3 API reference, "Authenticating requests: using the Authorization header".
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote, urlsplit

EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Keys:
    access_key_id: str
    secret_access_key: str
    region: str = "us-east-1"


def sign(
    method: str,
    url: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    keys: Keys,
    now: datetime,
) -> dict[str, str]:
    """`headers` with those that sign them; their names are in lower case.

    `url` has no query and its path is encoded as it is sent; `now` is UTC.
    """
    parts = urlsplit(url)
    moment = now.strftime("%Y%m%dT%H%M%SZ")
    sent = {**headers, "host": parts.netloc, "x-amz-content-sha256": EMPTY, "x-amz-date": moment}
    names = ";".join(sorted(sent))
    canonical = "\n".join(
        (
            method,
            parts.path or "/",
            canonical_query(query),
            *(f"{name}:{sent[name].strip()}" for name in sorted(sent)),
            "",
            names,
            EMPTY,
        )
    )
    scope = f"{moment[:8]}/{keys.region}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}"
    key = b"AWS4" + keys.secret_access_key.encode()
    for step in (moment[:8], keys.region, "s3", "aws4_request", text):
        key = hmac.new(key, step.encode(), hashlib.sha256).digest()
    sent["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys.access_key_id}/{scope},"
        f"SignedHeaders={names},Signature={key.hex()}"
    )
    return sent


def canonical_query(query: Mapping[str, str]) -> str:
    return "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in sorted(query.items()))
