"""The version that setup.py, sidecars, checkpoints and reports carry."""

__version__ = "0.1.0"
