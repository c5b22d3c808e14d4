"""`python -m sr_deploy`: the command line, where the `sr-deploy` script is not on the path."""

from sr_deploy.cli import main

main()
