"""`python -m output`."""

from output.app import main

if __name__ == "__main__":
    main()
