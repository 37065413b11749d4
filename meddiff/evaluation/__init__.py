"""The gain, in numbers and pictures."""
