"""Earlier revisions of flags: what they were, what they answered, and how to return to them."""
