"""The part of S3 that TensorStore's driver uses, with the bucket as the first part of the path."""

import email.utils
import time
import urllib.parse
from xml.sax import saxutils

from support.bucket_objects import Answer, Objects, Request, grouped, media


def answer(objects: Objects, request: Request) -> Answer:
    """Returns the answer to a request; the caller holds the lock of the objects."""
    bucket, _, name = urllib.parse.unquote(request.path.lstrip("/")).partition("/")
    if bucket not in objects.buckets:
        return error(404, "NoSuchBucket", "The specified bucket does not exist")
    if not name:
        is_list = request.method == "GET" and request.query.get("list-type") == "2"
        region = {"x-amz-bucket-region": "us-east-1"}
        return _list(objects, request, bucket) if is_list else Answer(200, b"", region)
    key = (bucket, name)
    if request.method == "PUT":
        return _put(objects, request, key)
    if request.method == "DELETE":
        return _delete(objects, request, key)
    stored = objects.stored.get(key)
    if stored is None:
        return error(404, "NoSuchKey", "The specified key does not exist.")
    if refusal := _unmet(objects, request, key):
        return refusal
    headers = {"ETag": stored.etag, "Last-Modified": email.utils.formatdate(stored.updated)}
    contents = media(stored, request, headers)
    return contents or error(416, "InvalidRange", "The requested range is not satisfiable")


def kind(request: Request) -> str:
    """Returns what a request does, in one word, to count requests by."""
    return "list" if "list-type" in request.query else "object"


def error(status: int, code: str, message: str) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>{saxutils.escape(message)}</Message></Error>"
    return Answer(status, body.encode(), {"Content-Type": "application/xml"})


def _unmet(objects: Objects, request: Request, key: tuple[str, str]) -> Answer | None:
    """Returns the answer to a request whose precondition does not hold, or None."""
    stored = objects.stored.get(key)
    wanted, unwanted = request.headers.get("If-Match"), request.headers.get("If-None-Match")
    if wanted is not None and (stored is None or stored.etag != wanted):
        if stored is None and request.method == "PUT":
            return error(404, "NoSuchKey", "The specified key does not exist.")
        return _precondition_failed(objects)
    if unwanted is not None and stored is not None and unwanted in ("*", stored.etag):
        is_read = request.method in ("GET", "HEAD")
        return Answer(304) if is_read else _precondition_failed(objects)
    return None


def _precondition_failed(objects: Objects) -> Answer:
    objects.counts["412"] += 1
    message = "At least one of the pre-conditions you specified did not hold"
    return error(412, "PreconditionFailed", message)


def _put(objects: Objects, request: Request, key: tuple[str, str]) -> Answer:
    if refusal := _unmet(objects, request, key):
        return refusal
    stored = objects.put(*key, request.body)
    return Answer(200, b"", {"ETag": stored.etag})


def _delete(objects: Objects, request: Request, key: tuple[str, str]) -> Answer:
    if refusal := _unmet(objects, request, key):
        return refusal
    objects.stored.pop(key, None)
    return Answer(204)


def _list(objects: Objects, request: Request, bucket: str) -> Answer:
    query = request.query
    prefix = query.get("prefix", "")
    after = query.get("continuation-token") or query.get("start-after", "")
    names, prefixes = grouped(objects.names(bucket, prefix), prefix, query.get("delimiter"))
    names = [name for name in names if name > after]
    most = int(query.get("max-keys") or 1000)
    page, rest = names[:most], names[most:]
    items = "".join(_listed(objects, bucket, name) for name in page)
    groups = "".join(
        f"<CommonPrefixes><Prefix>{saxutils.escape(name)}</Prefix></CommonPrefixes>"
        for name in prefixes
    )
    token = saxutils.escape(page[-1]) if rest else ""
    following = f"<NextContinuationToken>{token}</NextContinuationToken>" if rest else ""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{bucket}</Name><Prefix>{saxutils.escape(prefix)}</Prefix>"
        f"<KeyCount>{len(page)}</KeyCount><MaxKeys>{most}</MaxKeys>"
        f"<IsTruncated>{str(bool(rest)).lower()}</IsTruncated>"
        f"{following}{items}{groups}</ListBucketResult>"
    )
    return Answer(200, body.encode(), {"Content-Type": "application/xml"})


def _listed(objects: Objects, bucket: str, name: str) -> str:
    stored = objects.stored[bucket, name]
    updated = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(stored.updated))
    return (
        f"<Contents><Key>{saxutils.escape(name)}</Key><Size>{len(stored.contents)}</Size>"
        f"<ETag>{saxutils.escape(stored.etag)}</ETag><LastModified>{updated}</LastModified>"
        "</Contents>"
    )
