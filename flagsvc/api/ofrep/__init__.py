"""OpenFeature's remote evaluation protocol (OFREP 0.3.0): evaluations as JSON over HTTP, changes as an event stream."""
