"""
Inputs that are cut off: whatever reads them says one line, in time, or reads what is there.

`corpus` has the inputs, `harness` a table of readers and one of verbs: a new reader or verb is one
line there.  The suite takes a sample of all combinations; `python -m tests.fuzz` takes all of them.
"""
