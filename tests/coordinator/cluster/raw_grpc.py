"""One gRPC call by hand, without any library that could add a token of its own: HTTP/2 frames on a socket."""

import re
import socket
import struct

OK, UNAUTHENTICATED = 0, 16

_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS = 1, 4


def call(port, method, token=None):
    """Call ``/ray.rpc.Service/Method`` with an empty message; gRPC's status and its words."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": f"127.0.0.1:{port}",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b"")
    request += _frame(_HEADERS, _END_HEADERS, 1, b"".join(map(_literal, headers.items())))
    request += _frame(_DATA, _END_STREAM, 1, bytes(5))
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        # A name and a value are each a length and that many letters, as gRPC writes them: not compressed.
        while (found := re.search(rb"grpc-status([\x01\x02])(\d+)", answer)) is None:
            received = connection.recv(65536)
            if not received:
                raise AssertionError(f"no status: {answer!r}")
            answer += received
    words = re.search(rb"grpc-message.([ -~]*)", answer)
    return int(found[2][: found[1][0]]), words[1].decode() if words else ""


def _frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(header):
    name, value = (text.encode() for text in header)
    return b"\x00" + _length(name) + name + _length(value) + value


def _length(text):
    """HPACK's integer of seven bits."""
    if len(text) < 127:
        return bytes([len(text)])
    assert len(text) < 127 + 128
    return bytes([127, len(text) - 127])
