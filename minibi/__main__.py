"""`python -m minibi`: the same as the command `minibi`."""

from .app.cli import main

if __name__ == "__main__":
    main()
