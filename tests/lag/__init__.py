"""A search for the request that holds the event loop longest: python -m tests.lag --seconds 600 --flags 50000."""
