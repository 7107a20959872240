"""Lists the packages; everything else about the project is in pyproject.toml."""

from setuptools import find_packages, setup

# configs/ and plans/ are data at the top of a clone; an installed copy has them inside the package "transfer"
DATA = {"transfer.configs": "configs", "transfer.plans": "plans"}
PACKAGES = find_packages(
    include=[f"{name}{end}" for name in ("runtime", "convert", "pretrain", "transfer", "demo") for end in ("", ".*")]
)

setup(packages=[*PACKAGES, *DATA], package_dir=DATA)
