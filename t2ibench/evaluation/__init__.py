"""Floor 4: protocols, the evaluator, cost and the leakage guard; knows no family."""
