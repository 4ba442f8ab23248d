"""
Launches in the forms that start a VMM, one module a form.

Each has `config`, from a `Configuration` to the text, and the part of it that an ID block is in.
"""
