"""Becomes a program that is handed bound sockets: activate.py NAME=HOST:PORT... -- PROGRAM ARGUMENT..."""

import os
import socket
import sys

split = sys.argv.index("--")
sockets = []
for argument in sys.argv[1:split]:
    name, address = argument.split("=")
    host, port = address.rsplit(":", 1)
    sockets.append((name, socket.create_server((host, int(port)))))
# Out of the way of the places that they are to have.
numbers = [os.dup2(bound.fileno(), 100 + n) for n, (_, bound) in enumerate(sockets)]
for n, number in enumerate(numbers):
    os.dup2(number, 3 + n)
    os.close(number)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(sockets))
os.environ["LISTEN_FDNAMES"] = ":".join(name for name, _ in sockets)
os.execv(sys.argv[split + 1], sys.argv[split + 1 :])
