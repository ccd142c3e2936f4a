"""RECRAFT in JAX: adapt pretrained transformers to new modalities."""

__version__ = "0.1.0"
