"""Accepts samples, or says why not."""
