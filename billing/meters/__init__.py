"""What was used: the door of usage, its sums, its digests, and what nodes said of their time."""
