"""Floor 1: attention, convolution, conditioning, embeddings and EMA, small and pure."""
