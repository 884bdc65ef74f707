"""What each stage does: plain functions over files, tables and tensors, without Prefect, Ray or MLflow."""
