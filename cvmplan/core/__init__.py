"""Errors, findings, values, bytes, files, processes: what knows no launch and needs no room."""
