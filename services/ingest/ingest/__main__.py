"""`python -m ingest`."""

from ingest.app import main

if __name__ == "__main__":
    main()
