"""Floor 3: the generator families; each holds only what its papers invented."""
