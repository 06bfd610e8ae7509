"""What it costs, each measured against a peer or a limit in the same run: `make bench`."""
