"""Hyper-V's VBS (VSM) isolation: a SHA-256 chain over pages and registers."""
