"""What hardware signed: wrappers, certificates and keys, and the comparison with a plan."""
