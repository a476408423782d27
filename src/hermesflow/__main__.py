"""`python -m hermesflow STAGE ...`."""

import sys

from hermesflow.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
