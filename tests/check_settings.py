"""Settings for the type checker, which reads the models and needs no server or secret."""

import os

os.environ.setdefault("STOA_SECRET_KEY", "check")
os.environ.setdefault("STOA_KEY_PEPPER", "check")
os.environ.setdefault("STOA_MASTER_KEY", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
os.environ.setdefault("DATABASE_URL", "postgresql://check@127.0.0.1:1/check")
os.environ.setdefault("BROKER_URL", "redis://127.0.0.1:1/0")

from controlplane.settings import *  # noqa: F403
