"""Run folders and studies as files: nothing here computes or draws."""
