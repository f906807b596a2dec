"""Import boto3, Amazon's library for S3. Only a configuration with the section `storage` does."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

#: What boto3 1.36 and later must be told: they send CRC32 checksums in a way that other stores refuse (botocore#3352).
#: Amazon refuses them, too, if the numbers of the parts have a gap (see `parts.MARKER`). Releases before that ignore
#: it, and the equivalent argument would be an error for them.
_SENT = "AWS_REQUEST_CHECKSUM_CALCULATION"

#: The same for checksums in answers. An administrator may set another value in the environment of the daemon.
_EXPECTED = "AWS_RESPONSE_CHECKSUM_VALIDATION"

#: The files that boto3 reads for credentials and settings, by the variables that name other ones.
_FILES = {
    "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials",
    "AWS_CONFIG_FILE": "~/.aws/config",
    "AWS_CA_BUNDLE": "",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "",
}

#: The oldest release that is supported: Debian 12's.
OLDEST = (1, 26)


def import_boto3() -> ModuleType:
    """Return the module boto3. Takes half a second. Raises ImportError, also for a release that is too old."""
    os.environ[_SENT] = "when_required"
    os.environ.setdefault(_EXPECTED, "when_required")
    module = importlib.import_module("boto3")
    if tuple(int(part) for part in str(module.__version__).split(".")[:2]) < OLDEST:
        raise ImportError(f"boto3 {module.__version__} is older than {'.'.join(map(str, OLDEST))}")
    return module


def files() -> list[str]:
    """Return the files that boto3 may read. They need not exist."""
    named = (os.environ.get(variable) or default for variable, default in _FILES.items())
    return [os.path.expanduser(each) for each in named if each]
