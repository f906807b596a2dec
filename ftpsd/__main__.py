"""`python -m ftpsd` is the command `ftpsd`."""

import sys

from ftpsd.cli.cli import main

sys.exit(main())
