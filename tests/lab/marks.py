"""Marks of the tests that make a lab."""

import pytest

from tests.lab.lab import NETWORK_V4, missing

needs_lab = pytest.mark.skipif(bool(missing()), reason=missing() or "a lab can be made")
# pytest-socket lets a test connect to these alone.
reaches_hosts = pytest.mark.allow_hosts(["127.0.0.1", "::1", f"{NETWORK_V4}.0/24"])
