"""
Real VMMs recorded: what QEMU binaries ask of KVM for a matrix of launches.

`python -m tests.recorder --write` records the matrix anew, without a table of results;
`--table` prints what the recordings that are kept here are worth.
"""
