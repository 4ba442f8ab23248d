"""
Reference values in the forms that verifiers take, one module a form.

Each has `reference`, from a `Reference` to the documents: one, or one for each value.
"""
