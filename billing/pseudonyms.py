"""What runs and agents are called wherever they are counted: keyed hashes, scoped to a project.

Their names are personal data. A reference says nothing about its name without the pepper, and the
same name in two projects is two references, so that one tenant cannot name another's run. Pure:
the gateway counts by these, and the house looks up by them.
"""

import hmac
import re

NAME = re.compile(r"[A-Za-z0-9._:@-]{1,128}", re.ASCII)  # of a run or an agent

RUN_REF = re.compile(r"run_[0-9a-f]{20}")
AGENT_REF = re.compile(r"agt_[0-9a-f]{20}")


def key(pepper: bytes) -> bytes:
    return hmac.digest(pepper, b"stoa gateway run names v1", "sha256")


def run(key: bytes, project_id: str, path: str) -> str:
    """`run_…` of the run at `path`: its name below the names of the runs above it, by slashes."""
    return _ref(key, "run", project_id, path)


def agent(key: bytes, project_id: str, name: str) -> str:
    """`agt_…`"""
    return _ref(key, "agt", project_id, name)


def _ref(key: bytes, kind: str, project_id: str, name: str) -> str:
    text = f"{kind}\0{project_id}\0{name}".encode()
    return f"{kind}_{hmac.digest(key, text, 'sha256')[:10].hex()}"
