"""Payment through a bank alone: statements read, payments matched, direct debits written."""
