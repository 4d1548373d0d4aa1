"""`python -m edgellm`, for where the `edgellm` command isn't on the path."""

import sys

from edgellm.cli import main

sys.exit(main())
