"""The nine stages, one file each. A stage reads and writes files, and calls the domain for everything in between."""
