"""What other flag services got wrong, each tried on flagsvc: `docs/holes.md` has the list."""
