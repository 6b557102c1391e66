"""Floor 5: run folders to tables, statistics, plots and one self-contained page."""
