"""`python -m gpu_bridge`."""

from gpu_bridge.app import main

if __name__ == "__main__":
    main()
