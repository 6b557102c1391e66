"""Training of one module: the trainer, callbacks, checkpoints and tracking (W&B only here)."""
