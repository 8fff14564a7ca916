"""Lessons as notebooks: built into the package, run from end to end."""
