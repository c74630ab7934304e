"""python -m s4former.new_config"""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
