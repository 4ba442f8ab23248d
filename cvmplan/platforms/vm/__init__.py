"""Default and software-protected VMs: pages are mapped in advance, nothing is measured."""
