"""Who may do what, as plain data and pure functions: roles, scopes, identities, tokens, and one decision."""
