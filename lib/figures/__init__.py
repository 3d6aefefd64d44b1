"""Figures: style, and one module for each notebook."""
