"""Many pipelines compared."""
