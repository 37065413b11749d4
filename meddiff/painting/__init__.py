"""A seed becomes a pair."""
