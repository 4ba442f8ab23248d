"""
Where two launches part, and everything that differs between them.

`sides` brings plans, traces and recordings into one form, `walk` finds the first page or
vCPU state in which they part, `compare` lists all that differs, page by page and field by field,
as the records of `found`.
"""
