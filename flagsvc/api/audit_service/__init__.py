"""flagsvc.v1.AuditService."""
