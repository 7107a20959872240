"""The version, which pyproject.toml reads and sidecars, checkpoints and reports record."""

__version__ = "0.1.0"
