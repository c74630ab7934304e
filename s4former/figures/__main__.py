"""python -m s4former.figures"""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
