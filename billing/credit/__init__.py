"""Credit of accounts: given, bought, used, ended; and how a top-up is taxed."""
