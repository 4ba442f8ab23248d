"""Builders of good images, to be spoiled one field at a time."""
