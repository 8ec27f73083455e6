"""What is audited: encode, decode and predict noise; one module a family of models."""
