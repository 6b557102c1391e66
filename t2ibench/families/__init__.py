"""Generator families; each folder holds only what its papers invented."""
