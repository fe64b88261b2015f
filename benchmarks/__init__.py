"""Speed of LECCR against the official form of the same mathematics; each module is a command."""
