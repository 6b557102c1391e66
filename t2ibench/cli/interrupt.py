"""Stopping on purpose is not an error."""


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal after its state was saved."""
