"""Keys, signatures and certificates: the only package that imports cryptography."""
