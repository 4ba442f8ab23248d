"""What this machine's /dev/kvm can be asked about: the mapping half of a plan, and its answers."""
