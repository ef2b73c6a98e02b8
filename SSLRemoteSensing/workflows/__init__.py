"""Whole tasks that commands call: pre-train, fine-tune, doctor, label efficiency."""
