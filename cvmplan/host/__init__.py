"""What this machine's /dev/kvm answers: to a plan's mapping half, and to cases of calls."""
