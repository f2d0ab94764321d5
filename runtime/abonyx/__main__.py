"""`python -m abonyx`: the command line, if the script `abonyx` is not on the path."""

from abonyx.cli import main

main()
