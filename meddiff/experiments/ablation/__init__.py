"""The method with each part switched."""
