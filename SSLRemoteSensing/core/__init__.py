"""What every command needs: errors, console, files, config, flags, machine, processes, weights."""
