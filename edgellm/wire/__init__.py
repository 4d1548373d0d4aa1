"""Lines and sockets: how they are named, opened, watched and protected."""
