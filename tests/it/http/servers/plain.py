"""A server on http.server's own parser: python3 plain.py PORT. Writes what it took for requests to
standard output, a line each.

GET does not read a body: many programs do not, and what stays unread is the next request to
http.server.
"""
import sys
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body=b""):
        lists = self.headers.get_all("X-Forwarded-For", []) if self.headers else []
        first = self.headers.get("X-Forwarded-For", "") if self.headers else ""
        words = ["SEEN", "200", quote(self.path), str(len(body)), str(zlib.crc32(body))]
        words += [quote(value, safe=":, ") for value in lists + [first]]
        sys.stdout.write("\t".join(words) + "\n")
        sys.stdout.flush()
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"ok")

    def with_body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(body)

    def do_GET(self):
        self.answer()

    do_HEAD = do_DELETE = do_OPTIONS = do_GET
    do_POST = do_PUT = do_PATCH = with_body

    def log_message(self, *words):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass


Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
