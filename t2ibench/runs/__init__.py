"""Floor 1: a run's identity, folder, manifest, status and budget clock."""
