"""``python -m lorank``, the way in for ``torchrun -m lorank train …``."""

import sys

from lorank.cli import main

if __name__ == "__main__":
    sys.exit(main())
