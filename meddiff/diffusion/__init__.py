"""Teaches the inpainting model."""
