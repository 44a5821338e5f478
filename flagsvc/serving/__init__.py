"""What answers evaluations and makes changes."""
