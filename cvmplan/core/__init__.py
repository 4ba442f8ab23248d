"""Errors, findings, values, bytes and files: nothing here knows a launch."""
