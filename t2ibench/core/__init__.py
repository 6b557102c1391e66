"""Floor 0: the types, errors and pure conversions that every room shares."""
