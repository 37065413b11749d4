"""Invents masks and places them."""
