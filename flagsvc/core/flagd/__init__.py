"""flagd's flag configuration: reading it into flags, writing it from flags, merging it into stored flags."""
