"""Gets URLs through the proxy of the environment with requests, httpx and aiohttp, and prints what each has read.

python proxied.py CA_FILE URL...
"""

import asyncio
import json
import ssl
import sys

import aiohttp
import httpx
import requests


def with_requests(ca, url):
    return requests.get(url, verify=ca, timeout=20).text


def with_httpx(ca, url):
    with httpx.Client(verify=ssl.create_default_context(cafile=ca), timeout=20) as client:
        return client.get(url).text


def with_aiohttp(ca, url):
    async def get():
        context = ssl.create_default_context(cafile=ca)
        async with aiohttp.ClientSession(trust_env=True) as session:
            async with session.get(url, ssl=context) as answer:
                return await answer.text()

    return asyncio.run(get())


ca, urls = sys.argv[1], sys.argv[2:]
for client in (with_requests, with_httpx, with_aiohttp):
    for url in urls:
        try:
            read = client(ca, url)
        except Exception as error:
            read = f"{type(error).__name__}: {error}"
        print(json.dumps({"client": client.__name__, "url": url, "read": read}))
