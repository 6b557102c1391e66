"""``python -m t2ibench`` is the same command line."""

import sys

from t2ibench.cli.main import main

sys.exit(main())
