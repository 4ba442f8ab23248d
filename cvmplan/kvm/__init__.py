"""The host kernel's side of a launch."""
