"""Where calls run. One module per provider; its SDK is imported nowhere else."""
