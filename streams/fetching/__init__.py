"""Getting a picture's bytes from an address that a stranger chose."""
