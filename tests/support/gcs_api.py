"""The part of GCS's JSON API that TensorStore, gcsfs and google-cloud-storage use."""

import email
import json
import re
import time
import urllib.parse
import uuid

from support.bucket_objects import Answer, Objects, Request, grouped, json_answer, media

_RESOURCE = re.compile(
    r"(?:/upload|/download|/resumable/upload)?/storage/v1"
    r"/b(?:/(?P<bucket>[^/]+)(?:/(?P<objects>o)(?:/(?P<name>.+))?|/(?P<about>storageLayout|iam.*))?)?"
)
_NO_OBJECT = ("notFound", "No such object")


def answer(objects: Objects, request: Request) -> Answer:
    """Returns the answer to a request; the caller holds the lock of the objects."""
    if request.path.startswith("/batch"):
        return _batch(objects, request)
    match = _RESOURCE.fullmatch(request.path)
    if not match:
        return error(404, "notFound", f"no route {request.path}")
    bucket = match["bucket"]
    if bucket is None:
        return _buckets(objects, request)
    if bucket not in objects.buckets:
        return error(404, "notFound", "The specified bucket does not exist.")
    if match["about"]:
        return json_answer(200, {"locationType": "region"})
    if not match["objects"]:
        return json_answer(200, _bucket_resource(bucket))
    if request.path.startswith(("/upload", "/resumable")):
        return _upload(objects, request, bucket)
    if match["name"] is None:
        return _list(objects, request, bucket)
    if re.search("/(rewriteTo|copyTo)/b/", match["name"]):
        return _copy(objects, bucket, match["name"])
    return _one_object(objects, request, (bucket, urllib.parse.unquote(match["name"])))


def kind(request: Request) -> str:
    """Returns what a request does, in one word, to count requests by."""
    if request.path.endswith("/o") and request.method == "GET":
        return "list"
    if re.search("/b/[^/]+$", request.path):
        return "bucket"
    if "/upload/" in request.path:
        return "upload"
    return "media" if request.query.get("alt") == "media" else "meta"


def error(status: int, reason: str, message: str) -> Answer:
    detail = {"reason": reason, "message": message, "domain": "global"}
    return json_answer(status, {"error": {"code": status, "message": message, "errors": [detail]}})


def _buckets(objects: Objects, request: Request) -> Answer:
    if request.method != "POST":
        return json_answer(200, {"items": [{"name": name} for name in sorted(objects.buckets)]})
    name = json.loads(request.body)["name"]
    objects.buckets.add(name)
    return json_answer(200, {"name": name})


def _bucket_resource(bucket: str) -> dict[str, str]:
    return {
        "kind": "storage#bucket",
        "name": bucket,
        "id": bucket,
        "location": "US",
        "locationType": "multi-region",
        "storageClass": "STANDARD",
        "metageneration": "1",
        "timeCreated": "2026-01-01T00:00:00Z",
        "updated": "2026-01-01T00:00:00Z",
        "projectNumber": "1",
    }


def _object_resource(objects: Objects, key: tuple[str, str]) -> dict[str, str]:
    stored = objects.stored[key]
    bucket, name = key
    updated = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(stored.updated))
    return {
        "kind": "storage#object",
        "bucket": bucket,
        "name": name,
        "id": f"{bucket}/{name}/{stored.generation}",
        "size": str(len(stored.contents)),
        "generation": str(stored.generation),
        "metageneration": "1",
        "etag": str(stored.generation),
        "updated": updated,
        "timeCreated": updated,
        "contentType": "application/octet-stream",
        "storageClass": "STANDARD",
    }


def _one_object(objects: Objects, request: Request, key: tuple[str, str]) -> Answer:
    stored = objects.stored.get(key)
    if stored is None:
        return error(404, *_NO_OBJECT)
    if request.method == "DELETE":
        refusal = _too_soon(objects, key) or _unmet(objects, key, request.query, request.method)
        if refusal:
            return refusal
        del objects.stored[key]
        return Answer(204)
    if request.method not in ("GET", "HEAD"):
        return error(400, "invalid", request.method)
    if refusal := _unmet(objects, key, request.query, request.method):
        return refusal
    if request.query.get("alt") != "media":
        return json_answer(200, _object_resource(objects, key))
    headers = {
        "X-Goog-Generation": str(stored.generation),
        "X-Goog-Stored-Content-Length": str(len(stored.contents)),
        "Content-Type": "application/octet-stream",
    }
    contents = media(stored, request, headers)
    return contents or error(416, "requestedRangeNotSatisfiable", "range")


def _unmet(objects: Objects, key: tuple[str, str], query, method: str) -> Answer | None:
    """Returns the answer to a request whose precondition does not hold, or None."""
    stored = objects.stored.get(key)
    generation = stored.generation if stored else 0
    wanted, unwanted = query.get("ifGenerationMatch"), query.get("ifGenerationNotMatch")
    if wanted is not None and int(wanted) != generation:
        objects.counts["412"] += 1
        return error(412, "conditionNotMet", "At least one of the pre-conditions did not hold.")
    if unwanted is not None and int(unwanted) == generation:
        if method == "GET":
            return Answer(304)
        return error(412, "conditionNotMet", "At least one of the pre-conditions did not hold.")
    return None


def _too_soon(objects: Objects, key: tuple[str, str]) -> Answer | None:
    if not objects.changed_too_soon(key):
        return None
    objects.counts["429"] += 1
    name = "/".join(key)
    return error(
        429, "rateLimitExceeded", f"The object {name} exceeded the rate limit for object mutation."
    )


def _upload(objects: Objects, request: Request, bucket: str) -> Answer:
    """Stores an object that comes whole, with its metadata, or in several requests."""
    conditions, contents = request.query, request.body
    way = request.query.get("uploadType")
    if "upload_id" in request.query:
        name, conditions, parts = objects.uploads[request.query["upload_id"]]
        parts.append(request.body)
        contents = b"".join(parts)
        if not _is_last_part(request.headers.get("Content-Range", ""), len(contents)):
            return Answer(308, b"", {"Range": f"bytes=0-{len(contents) - 1}"})
    elif way == "resumable":
        return _begin_upload(objects, request, bucket)
    elif way == "multipart":
        metadata, contents = _multipart(request)
        name = request.query.get("name") or metadata["name"]
    else:
        name = request.query["name"]
    key = (bucket, name)
    refusal = _unmet(objects, key, conditions, request.method) or _too_soon(objects, key)
    if refusal:
        return refusal
    objects.put(bucket, name, contents)
    return json_answer(200, _object_resource(objects, key))


def _is_last_part(content_range: str, size: int) -> bool:
    total = re.fullmatch(r"bytes (?:\d+-\d+|\*)/(\d+|\*)", content_range)
    return total is None or (total[1] != "*" and size >= int(total[1]))


def _begin_upload(objects: Objects, request: Request, bucket: str) -> Answer:
    name = request.query.get("name") or json.loads(request.body)["name"]
    upload = uuid.uuid4().hex
    objects.uploads[upload] = (name, request.query, [])
    place = f"http://{request.headers['Host']}/upload/storage/v1/b/{bucket}/o"
    return json_answer(200, {}, Location=f"{place}?uploadType=resumable&upload_id={upload}")


def _multipart(request: Request) -> tuple[dict, bytes]:
    """Returns the metadata and the contents of an upload of both; the contents may be binary."""
    boundary = re.search('boundary="?([^";]+)', request.headers["Content-Type"])[1].encode()
    _, metadata, contents, *_ = request.body.split(b"--" + boundary)
    _, contents = re.split(rb"\r?\n\r?\n", contents, maxsplit=1)
    _, metadata = re.split(rb"\r?\n\r?\n", metadata, maxsplit=1)
    return json.loads(metadata), re.sub(rb"\r?\n\Z", b"", contents)


def _copy(objects: Objects, bucket: str, names: str) -> Answer:
    source, _, target = re.split("/(rewriteTo|copyTo)/b/", names)
    target_bucket, target_name = map(urllib.parse.unquote, target.split("/o/", 1))
    stored = objects.stored.get((bucket, urllib.parse.unquote(source)))
    if stored is None:
        return error(404, *_NO_OBJECT)
    objects.put(target_bucket, target_name, stored.contents)
    resource = _object_resource(objects, (target_bucket, target_name))
    sizes = {"totalBytesRewritten": resource["size"], "objectSize": resource["size"]}
    return json_answer(
        200, {"kind": "storage#rewriteResponse", "done": True, "resource": resource, **sizes}
    )


def _list(objects: Objects, request: Request, bucket: str) -> Answer:
    query = request.query
    prefix = query.get("prefix", "")
    begin, end = query.get("startOffset", ""), query.get("endOffset")
    names = [n for n in objects.names(bucket, prefix) if n >= begin and (not end or n < end)]
    names, prefixes = grouped(names, prefix, query.get("delimiter"))
    first, most = int(query.get("pageToken") or 0), int(query.get("maxResults") or 1000)
    page = names[first : first + most]
    value = {
        "kind": "storage#objects",
        "items": [_object_resource(objects, (bucket, name)) for name in page],
        "prefixes": prefixes,
    }
    if first + most < len(names):
        value["nextPageToken"] = str(first + most)
    return json_answer(200, value)


def _batch(objects: Objects, request: Request) -> Answer:
    """Deletes the objects of a batch, as gcsfs does with directories."""
    header = b"Content-Type: " + request.headers["Content-Type"].encode() + b"\r\n\r\n"
    answers = []
    for part in email.message_from_bytes(header + request.body).get_payload():
        line = part.get_payload().strip().splitlines()[0]
        match = re.match(r"DELETE \S*/b/([^/]+)/o/([^ ?]+)", line)
        deleted = objects.stored.pop((match[1], urllib.parse.unquote(match[2])), None)
        objects.counts["batched delete"] += 1
        status = "204 No Content" if deleted else "404 Not Found"
        answers.append(
            f"--X\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {status}\r\n\r\n\r\n"
        )
    body = "".join([*answers, "--X--\r\n"]).encode()
    return Answer(200, body, {"Content-Type": "multipart/mixed; boundary=X"})
