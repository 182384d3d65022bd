"""VAT of services sold to businesses: what is decided, on what proof, under which article."""
