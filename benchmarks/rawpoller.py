"""`python -m benchmarks.rawpoller URL COUNT`: what nobody can go below who asks a service in Python.

A loop on epoll that sends bytes made before and reads answers without looking at them. No more than 64 questions are
under way.
"""

from __future__ import annotations

import heapq
import select
import socket
import sys
import time
import uuid
from os import getpid
from urllib.parse import urlsplit

from benchmarks.pollservice import RETRY_AFTER_S
from benchmarks.processes import rss_mib

CONNECTIONS = 64


def follow(base_url: str, count: int) -> None:
    """Ask about so many operations whenever each is due, until killed."""
    at = urlsplit(base_url)
    print(rss_mib(getpid()), flush=True)
    poll = select.epoll()
    idle: list[socket.socket] = []
    asking: dict[int, tuple[socket.socket, bytes]] = {}
    for _ in range(CONNECTIONS):
        connection = socket.create_connection((at.hostname or "", at.port or 80))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(connection, select.EPOLLIN)
        idle.append(connection)
    now = time.monotonic()
    due = [(now, _question(at.netloc)) for _ in range(count)]
    while True:
        now = time.monotonic()
        while idle and due[0][0] <= now:
            _, question = heapq.heappop(due)
            connection = idle.pop()
            connection.send(question)
            asking[connection.fileno()] = connection, question
        for number, _ in poll.poll(max(0.0, due[0][0] - now) if idle else None):
            connection, question = asking.pop(number)
            connection.recv(65_536)
            idle.append(connection)
            heapq.heappush(due, (time.monotonic() + RETRY_AFTER_S, question))


def _question(host: str) -> bytes:
    head = f"GET /v1/operations/{uuid.uuid4()} HTTP/1.1\r\nHost: {host}\r\n"
    return (head + "Accept: application/json\r\nAuthorization: Bearer local\r\n\r\n").encode()


if __name__ == "__main__":
    follow(sys.argv[1], int(sys.argv[2]))
