"""Floor 5: run folders in; tables, comparisons, plots and one HTML page out."""
