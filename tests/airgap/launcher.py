"""A command of the mirror's, as a process of its own: what it reads and writes is this one's, and so is its end."""

import json
import os
import signal
import socket
import sys

with socket.socket(socket.AF_UNIX) as nursery:
    nursery.connect(sys.argv[1])
    socket.send_fds(nursery, [b"!"], [0, 1, 2])
    nursery.sendall(json.dumps({"arguments": sys.argv[2:], "environment": dict(os.environ)}).encode() + b"\n")
    answers = nursery.makefile()
    pid = int(answers.readline())
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda number, _: os.kill(pid, number))
    os.closerange(0, 3)
    status = int(answers.readline() or 1)
os._exit(status if status >= 0 else 128 - status)
