"""Floor 1: text encoders; all of them give TextFeatures."""
