"""RECRAFT in JAX: adapt pretrained transformers to new modalities."""

__version__ = "0.1.0"

_ESTIMATORS = ("CrossModalClassifier", "CrossModalRegressor")
__all__ = _ESTIMATORS


def __getattr__(name: str):
    """Import the estimators, and JAX with them, when they are asked for."""
    if name in _ESTIMATORS:
        from recraft_jax import estimators

        return getattr(estimators, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
