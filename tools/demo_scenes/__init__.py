"""Invented scenes: towns and clouds from above, with exact labels."""
