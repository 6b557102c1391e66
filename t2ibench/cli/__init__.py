"""Floor 6: the verbs; the only room that sees Hydra."""
