"""A WSGI program, for gunicorn (`app`) and for wsgiref (python3 wsgi.py PORT). Writes what it took
for requests to standard output, a line each."""
import os
import sys
import zlib
from urllib.parse import quote


def app(environ, start_response):
    stream, body = environ["wsgi.input"], b""
    coding = environ.get("HTTP_TRANSFER_ENCODING")
    if (coding or "").lower() != "chunked" or "gunicorn" in environ.get("SERVER_SOFTWARE", ""):
        length = environ.get("CONTENT_LENGTH")
        if length:
            body = stream.read(int(length))
        elif coding is not None:
            body = stream.read()
    lists = [value for name, value in environ.items() if name == "HTTP_X_FORWARDED_FOR"]
    path = environ.get("RAW_URI") or environ.get("PATH_INFO", "")
    words = ["SEEN", "200", quote(path), str(len(body)), str(zlib.crc32(body))]
    os.write(1, ("\t".join(words + [quote(value, safe=":, ") for value in lists]) + "\n").encode())
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


if __name__ == "__main__":
    from socketserver import ThreadingMixIn
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

    class Server(ThreadingMixIn, WSGIServer):
        request_queue_size = 512
        daemon_threads = True

        def handle_error(self, request, client_address):
            pass

    class Quiet(WSGIRequestHandler):
        def log_message(self, *words):
            pass

    sys.stderr = open(os.devnull, "w")
    make_server("127.0.0.1", int(sys.argv[1]), app, Server, Quiet).serve_forever()
