"""MLflow: what happened, run by run."""
