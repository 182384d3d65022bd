"""Stripe collects what our own invoices say; it never issues one.

Optional: without an API key, or without the package `stripe`, nothing here does anything, and
everything else works. `client` is the one module that imports the package, and only once it is
asked for something. docs/stripe.md has the rules.
"""
