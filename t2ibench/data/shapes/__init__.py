"""The procedural captioned world: scenes, captions, renders and their exact meaning."""
