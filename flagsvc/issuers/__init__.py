"""Callers whose identity others prove: JWTs of configured issuers, and client certificates. Rules give them roles."""
