"""Pictures, tables and pages made of numbers."""
