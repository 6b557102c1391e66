"""Floor 2: pure samplers over callables: diffusion solvers, autoregression, guidance."""
