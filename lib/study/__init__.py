"""The study behind the method: parameters, the grid of cells, tables and verdicts."""
