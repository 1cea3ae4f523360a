"""Models that run in this process: where they are, how they are spoken to and run."""
