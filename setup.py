"""What goes into a wheel: the library, and the recipes as infomax.recipes, which `infomax recipe NAME` writes out.

All else stands in pyproject.toml, which has no words for a package that lies outside its parent's folder.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["infomax*"]), "infomax.recipes"],
    package_dir={"infomax": "infomax", "infomax.recipes": "recipes"},
)
