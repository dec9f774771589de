"""The checker of shape annotations: beartype, with an int where a float is annotated, as Python's typing has it."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
