"""The command line: parsing, its errors, runs and their checkpoints."""

from src.cli.cli import TrainCLI

__all__ = ["TrainCLI"]
