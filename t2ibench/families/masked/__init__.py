"""Masked transformers over image codes."""
