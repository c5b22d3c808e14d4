"""The command line as `python -m sr_deploy`, for when the `sr-deploy` script is not on the PATH."""

from sr_deploy.cli import main

main()
