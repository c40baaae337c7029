"""cxr: MLflow-tracked experiments for chest X-ray classification."""
