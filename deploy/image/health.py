"""Asks the server of this container whether it is ready: the image's HEALTHCHECK.

    python3 health.py [URL]

The server's own environment says where it listens. Any certificate will do: nothing is sent that a
stranger may not read, and it names other hosts than this address.
"""

from __future__ import annotations

import os
import ssl
import sys
import urllib.request
from http.client import HTTPException

SECONDS = 4.0


def main(url: str) -> None:
    """Exit with 0 if the server is ready, else with one line and 1."""
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusting)
    )
    try:
        opener.open(url, timeout=SECONDS).close()
    except (OSError, ValueError, HTTPException) as error:
        sys.exit(f"{url}: {str(error).strip()}")


def from_environment() -> str:
    """Return the address of the readiness of a server with this environment."""
    scheme = "https" if os.environ.get("TORCHSHIP_SERVE_TLS_CERT") else "http"
    return f"{scheme}://127.0.0.1:{os.environ.get('TORCHSHIP_SERVE_PORT', '8000')}/v2/health/ready"


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else from_environment())
