"""The one command that joins a machine."""

import shlex

from django.conf import settings

from controlplane.fleet import authority, bundle
from controlplane.fleet.models import Region

# Whoever answers has proved nothing yet: only the script of this hash is run, and it trusts the
# authority of the pin alone.
_FETCH = (
    "import hashlib,ssl,sys,urllib.request as r;"
    "s=r.urlopen('{url}/agent/v1/join',context=ssl._create_unverified_context()).read();"
    "hashlib.sha256(s).hexdigest()=='{sha256}' or sys.exit('not the script of this command');"
    "exec(compile(s,'join','exec'))"
)


def pin(region: Region) -> str:
    """What a machine that joins knows of the region's authority: it trusts nothing else."""
    return authority.pin(region.ca_certificate)


def command(region: Region, secret: str, *, url: str = "", again: bool = False) -> str:
    """For a shell on the machine; `url`: the agents' door as that machine reaches it. `again`: it
    is a node that gets a new key."""
    url = url or settings.AGENTS_URL
    program = _FETCH.format(url=url, sha256=bundle.script_sha256())
    facts = ["--url", url, "--pin", pin(region), "--token", secret]
    return shlex.join(["python3", "-c", program, *facts, *(["--rejoin"] if again else [])])
