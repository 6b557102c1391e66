"""Autoregressive transformers over image codes."""
