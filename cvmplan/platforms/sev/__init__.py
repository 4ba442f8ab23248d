"""AMD SEV and SEV-ES: flat SHA-256 digests over what the firmware encrypts."""
