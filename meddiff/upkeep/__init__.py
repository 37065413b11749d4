"""Keeping a project in order: what isn't used any more, and what is amiss."""
