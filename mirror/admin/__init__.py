"""The admin protocol between the mirror's commands and the mirror that holds the cache, over a Unix socket."""
