"""MLflow, behind one door."""

#: Where ``advtrack dashboard`` serves the MLflow UI unless told otherwise.
UI_PORT = 5000
