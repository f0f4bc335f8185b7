"""The official MCP SDK against the demo MCP server: mcp_sdk.py URL legacy|auto|VERSION|kill, or URL denied KEY

Prints one JSON object. In the mode `kill` it prints a line for each word that the tool says, and ends when
it is stopped."""

import asyncio
import json
import sys

from mcp import Client, MCPError

URL, MODE = sys.argv[1] + "/mcp", sys.argv[2]


def text_of(result):
    return result.content[0].text


async def served(mode):
    async with Client(URL, mode=mode) as client:
        tools = (await client.list_tools()).tools
        result = await client.call_tool("echo", {"text": "one two"})
        return {
            "tools": [tool.name for tool in tools],
            "text": text_of(result),
            "version": client.protocol_version,
        }


async def failure(call):
    try:
        return {"text": text_of(await call)}
    except MCPError as error:
        return {"message": error.error.message, "code": error.error.code, "data": error.error.data}


async def killed():
    async def heard(params):
        print("word", params.data, flush=True)

    async with Client(URL, mode="legacy", logging_callback=heard) as client:
        stopped_by = await failure(client.call_tool("echo", {"text": "[[words 5000]] [[pace 20ms]]"}))
        following = await failure(client.call_tool("echo", {"text": "again"}))
        return {"stopped_by": stopped_by, "next": following}


async def denied():
    async with Client(URL + "?key=" + sys.argv[3], mode="auto") as client:
        refused = await client.call_tool("echo", {"text": "one two"})
        tools = (await client.list_tools()).tools
        return {"is_error": refused.is_error, "text": text_of(refused), "tools": [tool.name for tool in tools]}


MODES = {"kill": killed, "denied": denied}
print(json.dumps(asyncio.run(MODES[MODE]() if MODE in MODES else served(MODE))), flush=True)
