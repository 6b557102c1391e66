"""The verbs, one short file each: words → specification → a call into the engine → print."""
