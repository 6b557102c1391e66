"""Parts that a run depends on: one small file a kind, all with the same methods (``part.py``)."""
