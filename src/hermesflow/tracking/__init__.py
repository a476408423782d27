"""MLflow: a projection of results/. Nothing is kept for it; what it lacks is logged again from the results."""
