"""`python -m abonyx`: the command line where the script is not on the path."""

from abonyx.cli import main

main()
