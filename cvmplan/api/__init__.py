"""
The answers, from an image and its settings: what the verbs print, and what programs call.

`request` and `evidence` have the functions of `cvmplan.__all__`; `answers` is shared with the
command line.
"""
