"""The one command that joins a machine."""

import shlex

from django.conf import settings

from controlplane.fleet import authority
from controlplane.fleet.models import Region


def pin(region: Region) -> str:
    """What a machine that joins knows of the region's authority: it trusts nothing else."""
    return authority.pin(region.ca_certificate)


def command(region: Region, secret: str, *, url: str = "") -> str:
    """For a shell on the machine; `url`: the agents' door as that machine reaches it."""
    facts = ["--url", url or settings.AGENTS_URL, "--pin", pin(region), "--token", secret]
    return shlex.join(["stoa-agent", "join", *facts])
