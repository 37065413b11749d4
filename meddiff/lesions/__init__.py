"""What a real lesion is: outline, field, border, texture, look."""
