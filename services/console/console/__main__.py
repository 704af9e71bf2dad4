"""`python -m console`."""

from console.app import main

if __name__ == "__main__":
    main()
