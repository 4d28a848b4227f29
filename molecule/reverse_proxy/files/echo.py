"""A stand-in for the application: says what it was asked, on the port given as its only argument."""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PORT = int(sys.argv[1])
seen: dict[str, int] = {}


class Echo(BaseHTTPRequestHandler):
    """Answers with the request as JSON; ``/slow`` takes its time, ``/drop`` closes the connection without an answer."""

    protocol_version = "HTTP/1.1"
    # Head and body leave together: a stop hits an answer before it began, or not at all.
    wbufsize = 65536

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        key = f"{self.command} {self.path}"
        seen[key] = seen.get(key, 0) + 1
        if url.path == "/drop":
            self.close_connection = True
            return
        if url.path == "/slow":
            time.sleep(float(parse_qs(url.query)["seconds"][0]))
        headers = [[name.lower(), value] for name, value in self.headers.items()]
        body = json.dumps({"port": PORT, "path": self.path, "headers": headers, "seen": seen}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *_arguments):
        """Keep the journal for what matters."""


class Server(ThreadingHTTPServer):
    """Takes as many connections at once as an application server does."""

    request_queue_size = 128


Server(("127.0.0.1", PORT), Echo).serve_forever()
