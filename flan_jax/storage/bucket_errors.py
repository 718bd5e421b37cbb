"""What buckets and their clients report, as one clear message each, without anything secret."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from flan_jax.errors import UserError

_CODE = re.compile(r"http_response_code='(\d+)'")
# What TensorStore and absl call an error, at the begin of its text.
_KIND = re.compile(r"\b([A-Z]{2,}(?:_[A-Z]+)*): ")
_CURL = re.compile(r"curl_code='(\d+)'")
_NO_CREDENTIALS = re.compile(r"credential", re.IGNORECASE)

_HOW_TO_LOG_IN = {
    "gs": "give the account of this machine the role Storage Object User "
    "(roles/storage.objectUser) on the bucket, or log in with an account that has it: gcloud auth "
    "application-default login.",
    "s3": "allow this account s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on the "
    "bucket, or set AWS_PROFILE or AWS_ACCESS_KEY_ID to one that may.",
}


class BucketError(UserError):
    """A bucket did not do what it was sent."""


class NoBucket(BucketError):
    """The bucket does not exist."""


class NoPermission(BucketError):
    """The account of this process may not do that, or there is none."""


class Unreachable(BucketError):
    """The bucket did not answer, or said that it cannot now: another try may succeed."""


@contextlib.contextmanager
def bucket_errors(scheme: str, bucket: str, action: str) -> Iterator[None]:
    """Replaces what TensorStore raises about a bucket by one clear message.

    It has the status and the bucket only: what the server writes may contain names and tokens.

    Args:
      scheme: 'gs' or 's3'.
      bucket: its name.
      action: 'read', 'written', 'listed' or 'deleted', for the message.

    Raises:
      BucketError: in place of an error of the bucket; others pass.
    """
    try:
        yield
    except UserError:
        raise
    except (ValueError, RuntimeError) as error:  # TensorStore's
        raise explained(error, scheme, bucket, action) from None


def explained(error: Exception, scheme: str, bucket: str, action: str) -> BucketError:
    """Returns the error of a bucket as a message; see `bucket_errors`."""
    text, name = str(error), f"{scheme}://{bucket}"
    status = _status(error)
    if status == "404":
        return NoBucket(
            f"there is no bucket {name} (404); create it, or correct the name that you gave."
        )
    if status in ("401", "403"):
        return NoPermission(
            f"{name} cannot be {action}: no permission ({status}); {_HOW_TO_LOG_IN[scheme]}"
        )
    if _NO_CREDENTIALS.search(text) and not _CODE.search(text):
        return NoPermission(
            f"{name} cannot be {action}: no login was found on this machine; "
            f"{_HOW_TO_LOG_IN[scheme]}"
        )
    if "bucket name" in text:
        return BucketError(f"{name} is not a valid name of a bucket.")
    return Unreachable(
        f"{name} cannot be {action} now ({status}); when it can be reached again, the same command "
        "does the rest."
    )


def _status(error: Exception) -> str:
    """The HTTP status in an error, else a word or two for what it is."""
    text = str(error)
    if match := _CODE.search(text):
        return match[1]
    code = getattr(error, "code", None) or getattr(error, "status", None)  # gcsfs, aiohttp
    if isinstance(code, int) or str(code).isdecimal():
        return str(code)
    if isinstance(error, PermissionError) or re.search(
        "PERMISSION_DENIED|UNAUTHENTICATED|Anonymous caller|forbidden", text, re.IGNORECASE
    ):
        return "403"
    if "bucket does not exist" in text:
        return "404"
    if match := _CURL.search(text):
        return f"no connection, curl {match[1]}"
    kinds = _KIND.findall(text)
    return kinds[-1].lower().replace("_", " ") if kinds else type(error).__name__
