"""flagsvc.v1.TokenService."""
