"""MCP's HTTP+SSE transport (2024-11-05) with the official SDK: mcp_sse.py URL serve|call

The server prints its port and runs until it is stopped; the client prints one JSON object."""

import asyncio
import json
import socket
import sys

import uvicorn
from mcp import ClientSession
from mcp.client.sse import sse_client
from mcp.server.mcpserver import MCPServer

URL, MODE = sys.argv[1], sys.argv[2]


def serve():
    server = MCPServer("tools")

    @server.tool()
    def add(a: int, b: int) -> int:
        return a + b

    listener = socket.create_server(("127.0.0.1", 0))
    print("port", listener.getsockname()[1], flush=True)
    config = uvicorn.Config(server.sse_app(), log_level="error")
    uvicorn.Server(config).run(sockets=[listener])


async def call():
    async with (
        sse_client(URL + "/sse", headers={"authorization": "Bearer mine"}) as (reader, writer),
        ClientSession(reader, writer) as session,
    ):
        version = (await session.initialize()).protocol_version
        tools = (await session.list_tools()).tools
        result = await session.call_tool("add", {"a": 2, "b": 3})
        return {
            "version": version,
            "tools": [tool.name for tool in tools],
            "text": result.content[0].text,
        }


if MODE == "serve":
    serve()
else:
    print(json.dumps(asyncio.run(call())), flush=True)
