"""`python -m jaxdiv`: the command, where its script is not on the PATH."""

from jaxdiv.cli import main

main()
