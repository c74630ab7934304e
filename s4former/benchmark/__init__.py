"""How fast each part is, against the same thing written straight: `python -m s4former.benchmark`."""
