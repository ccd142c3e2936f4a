"""Cross-modal adaptation of pretrained transformers in JAX: RECRAFT and its baselines."""

__version__ = "0.1.0"
