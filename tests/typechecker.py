"""The run-time type checker of tests: beartype, with ints allowed where floats are (PEP 484)."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
