"""What a run stands on: one small file a kind, all with the same methods (``part.py``)."""
