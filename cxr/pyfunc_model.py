"""MLflow runs this file when it loads a version ("models from code"): the code itself, no pickle."""

from mlflow.models import set_model

from cxr.serving import ChestXrayClassifier

set_model(ChestXrayClassifier())
