"""
What the package costs against the least that it could cost: python -m tests.bench.

Every figure compares two things that were done in turn in one run, so that a slow or busy
machine slows both.  Nothing is asserted about time.
"""
