"""Package metadata: the one list of dependencies."""

import pathlib

import setuptools

HERE = pathlib.Path(__file__).parent
VERSION = (HERE / "recraft_jax" / "__init__.py").read_text().split('__version__ = "')[1]

setuptools.setup(
    name="recraft_jax",
    version=VERSION.split('"')[0],
    description="RECRAFT: adapt pretrained transformers to new modalities, in JAX",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=setuptools.find_packages(include=["recraft_jax", "recraft_jax.*"]),
    install_requires=[
        "absl-py",
        "etils[epath]",
        "flax>=0.12.8,<0.13",
        "fsspec",
        "grain>=0.2.18",
        "h5py>=3.10",
        "jax>=0.10",
        "jaxlib>=0.10",
        "jaxtyping>=0.3",
        "matplotlib>=3.8",
        "ml-collections>=1.1",
        "numpy>=2",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12,<1",
        "ott-jax>=0.6,<0.7",
        "pyarrow>=15",
        "rich>=13",
        "safetensors",
        "scikit-learn>=1.5",
        "scipy",
        "tensorflow-datasets>=4.9.9",
        "tensorstore>=0.1.60",
        "threadpoolctl",
        "tokenizers",
        "transformers>=5",
    ],
    extras_require={
        "audio": ["librosa>=0.10", "soundfile"],
        "bench": ["geomloss>=0.3", "torch"],
        "test": [
            "beartype",
            "hypothesis",
            "importlib_resources",
            "librosa>=0.10",
            "pytest>=8",
            "pytest-xdist>=3.7",
            "ruff",
            "soundfile",
        ],
        "gcs": ["gcsfs"],
        "s3": ["s3fs"],
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda12]"],
    },
)
