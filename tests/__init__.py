"""The tests of cvmplan."""

import os

os.environ["COLUMNS"] = (
    "1000"  # sentences are read whole; what is said on 80 columns has its own tests
)
