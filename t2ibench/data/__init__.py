"""Floor 1: data sets, the procedural world, transforms and content-addressed caches."""
