"""From a month's charges to a numbered, frozen document, and its evidence."""
