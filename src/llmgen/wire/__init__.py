"""Sans-IO codecs: bytes in, events out. Nothing here knows a socket, a clock, a loop or a recorder."""
