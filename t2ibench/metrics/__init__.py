"""Floor 1: distances, alignment, the exact grader, extractors and their statistics."""
