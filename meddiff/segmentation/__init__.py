"""Learns from pairs."""
