"""The program: python -m cvmplan, and the console script."""

import gc

gc.disable()  # one answer, then the end: collecting cycles costs a tenth of the time

from cvmplan.cli import entry  # noqa: E402 imported without collecting too

if __name__ == "__main__":
    entry()
