"""Where to paint."""
