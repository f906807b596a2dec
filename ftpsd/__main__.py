"""`python -m ftpsd` is the command `ftpsd`."""

import sys

from ftpsd.cli.main import main

sys.exit(main())
