"""A guest owner's session with SEV firmware: keys, launch blobs, secrets, answers."""
