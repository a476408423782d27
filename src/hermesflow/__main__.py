"""`python -m hermesflow STAGE ...`."""

import sys

from hermesflow.cli import main

if __name__ == "__main__":
    sys.exit(main())
