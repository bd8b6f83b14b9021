"""What a request gets, whatever transport brought it: keys, rates, accounts, answers, failures."""
