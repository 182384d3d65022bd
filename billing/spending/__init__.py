"""What may be spent: budgets, and what is granted and reserved of them ahead."""
