"""Raw files become cases: adapters, the demo, splits without leaks."""
