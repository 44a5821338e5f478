"""One file per technology: the only ones that import its driver."""
