"""Floor 4: the only room that prints, parses arguments or opens sockets."""
