"""One neutral table and one neutral chart under every output format."""
