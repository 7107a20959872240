"""Install from a clone: ``pip install -e .`` (or ``make``, which pins every version by constraints.txt)."""

from pathlib import Path

from setuptools import setup

VERSION: dict[str, str] = {}
exec((Path(__file__).parent / "runtime" / "version.py").read_text(), VERSION)

setup(
    name="transfer-gap",
    version=VERSION["__version__"],
    description="Measures how well self-supervised backbones transfer to detection: MoCo pretraining, conversion, "
    "Detectron2-exact fine-tuning and the gap to supervised pretraining with an interval",
    long_description=(Path(__file__).parent / "README.md").read_text(),
    long_description_content_type="text/markdown",
    python_requires=">=3.10",
    packages=[],  # used from the clone: its room names are too plain for site-packages
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "numpy>=1.24",
        "pycocotools>=2.0.7",
        "fvcore>=0.1.5.post20221221",
        "opencv-python-headless>=4.8",
        "Pillow>=10.1",
        "PyYAML>=6",
        "safetensors>=0.4",
        "scipy>=1.10",
        "tensorboard>=2.14",
        "tqdm>=4.60",
    ],
    extras_require={
        "fast": ["simplejpeg>=1.7", "numba>=0.60"],
        "slurm": ["submitit>=1.5"],
        "wandb": ["wandb"],
        "dev": ["pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.100", "ruff", "mypy", "types-PyYAML", "submitit>=1.5"],
    },
)
