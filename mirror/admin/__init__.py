"""The admin protocol between the mirror's commands and the process that has locked the cache, over a Unix socket.

`protocol` defines the messages, `client` sends requests for the commands, `server` answers them. This module imports
nothing, so that commands can declare their options without loading pydantic or aiohttp.
"""

MAX_WARM_JOBS = 32
"""Images that one warm request downloads at the same time, at most."""
