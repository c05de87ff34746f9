"""Optuna, behind one door: the search for the smallest budget."""
