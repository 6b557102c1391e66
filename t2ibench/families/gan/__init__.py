"""Generative adversarial networks: one forward pass from text and noise to an image."""
