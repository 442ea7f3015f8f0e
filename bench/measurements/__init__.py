"""One measurement a file: each is given the stage and gives back its rows."""
