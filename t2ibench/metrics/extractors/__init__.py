"""Networks that turn stored pixels into features for distances and alignment."""
