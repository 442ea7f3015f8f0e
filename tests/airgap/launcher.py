"""Run one command of the mirror through the command server, with this process's streams, signals and exit status."""

import json
import os
import signal
import socket
import sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    socket.send_fds(server, [b"!"], [0, 1, 2])
    server.sendall(json.dumps({"arguments": sys.argv[2:], "environment": dict(os.environ)}).encode() + b"\n")
    answers = server.makefile()
    pid = int(answers.readline())
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda number, _: os.kill(pid, number))
    os.closerange(0, 3)
    status = int(answers.readline() or 1)
os._exit(status if status >= 0 else 128 - status)
