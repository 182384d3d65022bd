"""The double-entry ledger: its chart, its closed months, its nightly reconciliation."""
