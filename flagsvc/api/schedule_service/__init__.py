"""flagsvc.v1.ScheduleService."""
