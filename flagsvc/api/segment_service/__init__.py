"""flagsvc.v1.SegmentService."""
