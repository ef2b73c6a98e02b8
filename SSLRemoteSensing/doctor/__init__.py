"""What can be known of a run before it starts: machine, data, network, folders, time."""
