"""The mapping half of a plan, executed on this machine's /dev/kvm and compared."""
