"""Where a server listens."""

import errno
import ipaddress
import socket


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; with port 0 at any port that is free.

    Raises:
        OSError: the port is in use, or may not be used, or the machine has no such address; says what would do.
        ValueError: no port.
    """
    if not 0 <= port < 65536:
        raise ValueError(f"a port is in 0..65535, got {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise OSError(f"{host}: no address of this machine ({error.strerror or error}); 127.0.0.1 is") from None
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(512)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"port {port} is in use: choose another with --port, or 0 for any that is free") from None
        if error.errno == errno.EACCES:
            raise OSError(f"port {port} may not be used: choose one from 1024 on with --port") from None
        raise OSError(f"{host}: no address of this machine ({error.strerror}); 127.0.0.1 is") from None
    return found
