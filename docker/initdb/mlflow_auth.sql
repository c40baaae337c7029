-- accounts have a database of their own beside `mlflow`, which the image makes
CREATE DATABASE mlflow_auth;
