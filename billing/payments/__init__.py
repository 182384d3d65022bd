"""Payments of our invoices, by whichever way they come."""
