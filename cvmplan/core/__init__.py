"""Errors, findings, values, bytes, files and processes: what knows no launch, and imports no room."""
