"""Training: adapters, whole models, and the model inside the package."""
