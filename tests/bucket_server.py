"""Buckets on the loopback address for tests: the parts of GCS and S3 that our clients use.

Preconditions hold, and a test may make the server slow, failing, refusing, or as strict as GCS
about changes of one object. As a program, `python tests/bucket_server.py PORT`, it serves until it
is stopped.
"""

import collections
import contextlib
import http.server
import pathlib
import re
import socketserver
import sys
import threading
import time
import urllib.parse
from typing import NamedTuple

from support import gcs_api, s3_api
from support.bucket_objects import Answer, Objects, Request

# Long, so that a search for it in outputs and files finds it and nothing else.
TOKEN = "testing-token-3f9c1d7a5b8e4206-never-printed"


class Logged(NamedTuple):
    """A request that came."""

    time: float  # seconds since 1970
    what: str  # the method and the path
    query: str
    agent: str
    login: str  # the token that TensorStore sends; gcsfs sends none


class _Fault:
    """The next `times` requests that match fail."""

    def __init__(self, pattern: str, status: int, times: int):
        self.pattern, self.status, self.times = re.compile(pattern), status, times

    def meets(self, *forms: str) -> bool:
        if self.times <= 0 or not any(map(self.pattern.search, forms)):
            return False
        self.times -= 1
        return True


class BucketServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """The server, running in threads until its `with` block ends, with `bucket1` in it.

    Attributes:
      objects: what the buckets contain; `objects.one_change_a_second` makes it answer 429 as GCS.
      latency: seconds before each answer.
      counts: requests by interface, method and kind, e.g. `gs POST upload`.
      log: the requests in order.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int = 0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.objects = Objects()
        self.latency = 0.0
        self.counts: collections.Counter = collections.Counter()
        self.log: list[Logged] = []
        self._faults: list[_Fault] = []
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __exit__(self, *error):
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request, client_address):
        """Says nothing: clients that a test kills close their connections in the middle."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which TensorStore, gcsfs and flan_jax use this server."""
        return {
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "STORAGE_EMULATOR_HOST": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": TOKEN,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": TOKEN,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def fail(self, pattern: str, status: int, times: int = 1 << 30) -> None:
        """Answers the next requests with a status.

        Args:
          pattern: a regular expression that is searched for in 'METHOD path', and with '?query'.
          status: the status; 0 closes the connection without an answer.
          times: how many requests.
        """
        self._faults.append(_Fault(pattern, status, times))

    def recover(self) -> None:
        """Ends all of `fail`."""
        self._faults.clear()

    def put(self, name: str, contents: bytes | str, bucket: str = "bucket1") -> None:
        """Stores an object without a request."""
        contents = contents.encode() if isinstance(contents, str) else contents
        self.objects.put(bucket, name, contents)

    def upload(self, path: pathlib.Path, name: str) -> None:
        """Stores a file, or the files below a directory, without a request."""
        if path.is_file():
            self.put(name, path.read_bytes())
        for file in path.rglob("*"):
            if file.is_file():
                self.put(f"{name}/{file.relative_to(path).as_posix()}", file.read_bytes())

    def get(self, name: str, bucket: str = "bucket1") -> bytes:
        """Returns the contents of an object; KeyError without it."""
        return self.objects.stored[bucket, name].contents

    def names(self, prefix: str = "", bucket: str = "bucket1") -> list[str]:
        return self.objects.names(bucket, prefix)

    def answer(self, request: Request, agent: str) -> Answer | None:
        """Returns the answer to a request; None to close the connection."""
        is_gcs = re.match("/(storage|upload|download|resumable|batch)/", request.path)
        api, prefix = (gcs_api, "gs") if is_gcs else (s3_api, "s3")
        what = f"{request.method} {request.path}"
        with self.objects.lock:
            self.counts[f"{prefix} {request.method} {api.kind(request)}"] += 1
            query = urllib.parse.urlencode(request.query)
            login = request.headers.get("Authorization", "").removeprefix("Bearer ")
            self.log.append(Logged(time.time(), what, query, agent, login))
            forms = (what, f"{what}?{query}")
            fault = next((fault for fault in self._faults if fault.meets(*forms)), None)
        if self.latency:
            time.sleep(self.latency)
        if fault:
            return _fault_answer(api, fault.status)
        with self.objects.lock:
            return api.answer(self.objects, request)


def _fault_answer(api, status: int) -> Answer | None:
    if not status:
        return None
    if status == 403 and api is gcs_api:
        message = "tester@example.iam does not have storage.objects access to the object."
        return api.error(status, "forbidden", message)
    codes = {403: "AccessDenied", 503: "SlowDown"} if api is s3_api else {}
    return api.error(status, codes.get(status, "backendError"), "injected")


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
        pass

    def _handle(self):
        url = urllib.parse.urlsplit(self.path)
        pairs = urllib.parse.parse_qsl(url.query, keep_blank_values=True)
        request = Request(self.command, url.path, dict(pairs), self.headers, self._body())
        answer = self.server.answer(request, self.headers.get("User-Agent", ""))
        if answer is None:
            self.close_connection = True
            self.connection.close()
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status not in (204, 304):
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD" and answer.status not in (204, 304):
            self.wfile.write(answer.body)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _handle

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)


if __name__ == "__main__":
    with BucketServer(int(sys.argv[1])) as server, contextlib.suppress(KeyboardInterrupt):
        print(*(f"export {name}={value}" for name, value in server.environment.items()), sep="\n")
        sys.stdout.flush()
        threading.Event().wait()
