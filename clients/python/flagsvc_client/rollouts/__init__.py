"""Rollouts: begun, paused, resumed and rolled back, each from the share that stands."""
