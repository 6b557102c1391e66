"""t2ibench: text-to-image generator families compared under one protocol."""

__version__ = "0.1.0"
