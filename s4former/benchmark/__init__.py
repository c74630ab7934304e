"""How fast each part is, compared with a plain reference implementation of the same: `s4former benchmark`."""
