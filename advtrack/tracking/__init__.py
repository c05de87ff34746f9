"""MLflow, behind one door."""
