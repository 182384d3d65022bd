"""What things cost: the catalogue's versions, what is agreed beyond them, and a month's lines."""
