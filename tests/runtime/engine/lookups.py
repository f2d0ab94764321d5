"""Run a command in a separate network namespace and print the host names that it looks up: python lookups.py COMMAND.

`unshare -n` starts it. Loopback gets the address of the machine's name server, and this script answers "no such host".
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path


def _name(query: bytes) -> str:
    """The host name of a DNS query's first question."""
    labels, rest = [], query[12:]
    while rest[0]:
        labels.append(rest[1 : 1 + rest[0]].decode())
        rest = rest[1 + rest[0] :]
    return ".".join(labels)


def main() -> None:
    """Answer queries until the command ends."""
    found = re.search(r"^nameserver\s+(\d+\.\d+\.\d+\.\d+)", Path("/etc/resolv.conf").read_text(), re.MULTILINE)
    address = found[1] if found else "127.0.0.1"
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    if not address.startswith("127."):
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    names: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 53))

        def answer() -> None:
            while True:
                query, client = server.recvfrom(4096)
                if query == b"end":
                    return
                names.append(_name(query))
                server.sendto(query[:2] + b"\x81\x83" + query[4:6] + b"\0" * 6 + query[12:], client)

        answering = threading.Thread(target=answer)
        answering.start()
        done = subprocess.run(sys.argv[1:], stdout=sys.stderr, check=False)
        server.sendto(b"end", (address, 53))
        answering.join()
    sys.stdout.write(json.dumps({"code": done.returncode, "names": names}))


if __name__ == "__main__":
    main()
