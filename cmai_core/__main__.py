"""`python -m cmai_core` is the command `cmai`."""

from cmai_core.cli import main

raise SystemExit(main())
