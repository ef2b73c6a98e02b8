"""What is wrong with data, config or machine, found before a run."""
