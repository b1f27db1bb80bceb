"""``python -m renewer``."""

from renewer.cli import main

if __name__ == "__main__":
    main()
