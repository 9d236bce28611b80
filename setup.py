"""What pyproject.toml cannot say: the folder configs/, at the top of the repository, travels as tfew/configs."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["tfew*"]), "tfew.configs"], package_dir={"tfew.configs": "configs"})
