"""The tests of cvmplan."""
