"""Reads what stages left."""
