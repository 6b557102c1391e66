"""Floor 2: first stages, images to small grids of latents or codes and back."""
