"""
What kernels answer to the mapping calls, asked by booting them under emulation.

`python -m tests.kernels --write` boots every kernel that `.ci/consumers` has fetched (and those
that are named) and keeps their answers; see `recipe.md` for kernels with KVM_SW_PROTECTED_VM.
"""
