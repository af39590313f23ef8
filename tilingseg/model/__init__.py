"""Networks, their spec, their halo and their files."""
