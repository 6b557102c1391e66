"""Diffusion: noise removed step by step, guided by text."""
