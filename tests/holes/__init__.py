"""What other flag services got wrong, each case tried on flagsvc: the list is in `docs/holes.md`."""
