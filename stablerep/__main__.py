"""`python -m stablerep` is the `stablerep` command."""

from stablerep.cli import main

if __name__ == "__main__":
    main()
