"""Host kernels as data: interfaces, calls, struct layouts and how memory is set up."""
