"""`python -m stem_complete`."""

from stem_complete.cli import main

main()
