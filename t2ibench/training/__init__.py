"""Floor 5: the trainer, callbacks, checkpoints; the only room that sees wandb."""
