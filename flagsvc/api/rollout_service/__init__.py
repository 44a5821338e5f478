"""flagsvc.v1.RolloutService."""
