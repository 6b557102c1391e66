"""What the scores of run folders support: groups, intervals, tests, ranks and fronts."""
