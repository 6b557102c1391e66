"""Floor 2: first stages: VQ and KL autoencoders."""
