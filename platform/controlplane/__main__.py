"""`python -m controlplane …`: the command line, where no script is installed."""

from controlplane.cli import main

main()
