"""The protocols: each handler unpacks a request, calls the domain once and packs the response."""
