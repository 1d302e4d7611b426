"""The proxies that the environment names: whose fault it may be that a server does not answer."""

from __future__ import annotations

import os
import urllib.parse
import urllib.request

from bccp.core.redaction import redact_url


def proxy_note(url: str) -> str:
    """Name the proxy through which a server is asked, for the end of a reason; empty where it is asked directly.

    Examples
    --------
    >>> proxy_note("https://example.org/a.zip")  # doctest: +SKIP
    ', through the proxy http://127.0.0.1:3128 of HTTPS_PROXY'
    """
    address = urllib.parse.urlsplit(url)
    if not address.hostname or urllib.request.proxy_bypass(address.hostname):
        return ""
    for name in (f"{address.scheme}_proxy", "all_proxy"):
        for variable in (name, name.upper()):
            if proxy := os.environ.get(variable):
                shown = redact_url(proxy) if "://" in proxy else proxy.rpartition("@")[2]
                return f", through the proxy {shown} of {variable}"
    return ""
