"""Floor 4: published checkpoints in (CompVis files, diffusers folders) and out."""
