"""Figures, drawn with matplotlib's objects alone: no global state, no display. One kind a file."""
