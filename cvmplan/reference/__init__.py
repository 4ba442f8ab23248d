"""Reference values: the measurements that a verifier accepts, and the forms that they can have."""
