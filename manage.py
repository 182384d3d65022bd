#!/usr/bin/env python
"""Django's command line, for a checkout."""

from controlplane.cli import main

if __name__ == "__main__":
    main()
