"""Python SDKs as clients of the gateway, each through every scenario of scenarios.json, or of the file $SCENARIOS.

    drive.py PROGRAM GATEWAY_URL CONTROL_URL [SCENARIO ...]

The scenarios (all, or those named) run at once, each in a session of its own (`PROGRAM-SCENARIO`); each prints one JSON
object with what the SDK gave its caller. The kill scenario plays the operator itself: it kills its
session after five pieces of a slow stream, asks again, lifts the kill and asks once more.
"""

import asyncio
import json
import os
import pathlib
import queue
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

SCENARIOS = pathlib.Path(os.environ.get("SCENARIOS") or pathlib.Path(__file__).with_name("scenarios.json"))
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "The weather of a city", "parameters": SCHEMA}
TIMEOUT = 20


class OpenAi:
    """`openai`, chat completions."""

    model = "gpt-demo"

    def __init__(self, url, headers):
        import openai

        self.api = openai.OpenAI(base_url=url + "/v1", api_key="sk-test", default_headers=headers, timeout=TIMEOUT)

    def ask(self, text, **more):
        return {"model": self.model, "messages": [{"role": "user", "content": text}], **more}

    def whole(self, text):
        answer = self.api.chat.completions.create(**self.ask(text))
        choice = answer.choices[0]
        return {"text": choice.message.content, "tokens": answer.usage.completion_tokens, "stop": choice.finish_reason}

    def streamed(self, text, end):
        asked = self.ask(text, stream=True, stream_options={"include_usage": True})
        for chunk in self.api.chat.completions.create(**asked):
            if chunk.choices:
                end["stop"] = chunk.choices[0].finish_reason or end.get("stop")
                yield chunk.choices[0].delta.content or ""
            if chunk.usage:
                end["tokens"] = chunk.usage.completion_tokens

    def tools(self, text, streamed):
        first = self.ask(text, tools=[{"type": "function", "function": WEATHER}])
        if streamed:
            with self.api.chat.completions.stream(**first) as stream:
                for _ in stream:
                    pass
                answer = stream.get_final_completion()
        else:
            answer = self.api.chat.completions.create(**first)
        call = answer.choices[0].message.tool_calls[0]
        function = {"name": call.function.name, "arguments": call.function.arguments}
        said = {"role": "assistant", "content": None,
                "tool_calls": [{"id": call.id, "type": "function", "function": function}]}
        first["messages"] += [said, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
        last = self.api.chat.completions.create(**first)
        return {"tool": call.function.name, "input": json.loads(call.function.arguments),
                "stop": answer.choices[0].finish_reason, "text": last.choices[0].message.content}


class OpenAiResponses(OpenAi):
    """`openai`, responses."""

    model = "gpt-5-demo"

    def whole(self, text):
        answer = self.api.responses.create(model=self.model, input=text)
        return {"text": answer.output_text, "tokens": answer.usage.output_tokens, "stop": answer.status}

    def streamed(self, text, end):
        for event in self.api.responses.create(model=self.model, input=text, stream=True):
            if event.type == "response.output_text.delta":
                yield event.delta
            elif event.type == "response.completed":
                end["stop"], end["tokens"] = event.response.status, event.response.usage.output_tokens

    def tools(self, text, streamed):
        asked = {"model": self.model, "tools": [{"type": "function", "strict": False, **WEATHER}],
                 "input": [{"role": "user", "content": text}]}
        if streamed:
            with self.api.responses.stream(**asked) as stream:
                for _ in stream:
                    pass
                answer = stream.get_final_response()
        else:
            answer = self.api.responses.create(**asked)
        call = answer.output[0]
        said = {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments}
        asked["input"] += [said, {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
        last = self.api.responses.create(**asked)
        return {"tool": call.name, "input": json.loads(call.arguments), "stop": answer.status,
                "text": last.output_text}


class Anthropic:
    """`anthropic`, messages."""

    def __init__(self, url, headers):
        import anthropic

        self.api = anthropic.Anthropic(base_url=url, api_key="sk-ant-test", default_headers=headers, timeout=TIMEOUT)

    def ask(self, text, **more):
        return {"model": "claude-demo", "max_tokens": 1000, "messages": [{"role": "user", "content": text}], **more}

    def whole(self, text):
        answer = self.api.messages.create(**self.ask(text))
        return {"text": answer.content[0].text, "tokens": answer.usage.output_tokens, "stop": answer.stop_reason}

    def streamed(self, text, end):
        with self.api.messages.stream(**self.ask(text)) as stream:
            yield from stream.text_stream
            answer = stream.get_final_message()
        end["stop"], end["tokens"] = answer.stop_reason, answer.usage.output_tokens

    def tools(self, text, streamed):
        tool = {"name": WEATHER["name"], "description": WEATHER["description"], "input_schema": SCHEMA}
        first = self.ask(text, tools=[tool])
        if streamed:
            with self.api.messages.stream(**first) as stream:
                answer = stream.get_final_message()
        else:
            answer = self.api.messages.create(**first)
        call = next(block for block in answer.content if block.type == "tool_use")
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
        first["messages"] += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
        last = self.api.messages.create(**first)
        return {"tool": call.name, "input": call.input, "stop": answer.stop_reason, "text": last.content[0].text}


class Mistral:
    """`mistralai`, chat completions."""

    def __init__(self, url, headers):
        from mistralai.client import Mistral as Client

        self.api = Client(api_key="test", server_url=url, timeout_ms=TIMEOUT * 1000)
        self.headers = headers

    def ask(self, text, **more):
        messages = [{"role": "user", "content": text}]
        return {"model": "mistral-demo", "messages": messages, "http_headers": self.headers, **more}

    def whole(self, text):
        answer = self.api.chat.complete(**self.ask(text))
        choice = answer.choices[0]
        return {"text": choice.message.content, "tokens": answer.usage.completion_tokens, "stop": choice.finish_reason}

    def streamed(self, text, end):
        for event in self.api.chat.stream(**self.ask(text)):
            choice = event.data.choices[0]
            end["stop"] = choice.finish_reason or end.get("stop")
            if event.data.usage:
                end["tokens"] = event.data.usage.completion_tokens
            yield choice.delta.content or ""

    def tools(self, text, streamed):
        first = self.ask(text, tools=[{"type": "function", "function": WEATHER}])
        if streamed:
            last = list(self.api.chat.stream(**first))[-1].data.choices[0]
            message, stop = last.delta, last.finish_reason
        else:
            choice = self.api.chat.complete(**first).choices[0]
            message, stop = choice.message, choice.finish_reason
        call = message.tool_calls[0]
        first["messages"] += [{"role": "assistant", "content": "", "tool_calls": [call]},
                              {"role": "tool", "tool_call_id": call.id, "name": "weather", "content": "sunny"}]
        answer = self.api.chat.complete(**first)
        return {"tool": call.function.name, "input": json.loads(call.function.arguments), "stop": stop,
                "text": answer.choices[0].message.content}


class Ollama:
    """`ollama`, chat."""

    def __init__(self, url, headers):
        import ollama

        self.api = ollama.Client(host=url, headers=headers, timeout=TIMEOUT)

    def ask(self, text, **more):
        return {"model": "llama-demo", "messages": [{"role": "user", "content": text}], **more}

    def whole(self, text):
        answer = self.api.chat(**self.ask(text))
        return {"text": answer.message.content, "tokens": answer.eval_count, "stop": answer.done_reason}

    def streamed(self, text, end):
        for part in self.api.chat(**self.ask(text), stream=True):
            if part.done:
                end["stop"], end["tokens"] = part.done_reason, part.eval_count
            yield part.message.content or ""

    def tools(self, text, streamed):
        first = self.ask(text, tools=[{"type": "function", "function": WEATHER}])
        parts = list(self.api.chat(**first, stream=True)) if streamed else [self.api.chat(**first)]
        message = next(part.message for part in parts if part.message.tool_calls)
        function = message.tool_calls[0].function
        first["messages"] += [message, {"role": "tool", "tool_name": function.name, "content": "sunny"}]
        last = self.api.chat(**first)
        return {"tool": function.name, "input": dict(function.arguments), "stop": parts[-1].done_reason,
                "text": last.message.content}


class LangChain:
    """The common part of all LangChain chat models."""

    def whole(self, text):
        answer = self.model.invoke(text)
        return {"text": answer.text, "tokens": answer.usage_metadata["output_tokens"], "stop": stop(answer)}

    def streamed(self, text, end):
        whole = None
        for chunk in self.model.stream(text):
            whole = chunk if whole is None else whole + chunk
            end["stop"] = stop(whole)
            end["tokens"] = (whole.usage_metadata or {}).get("output_tokens")
            yield chunk.text

    def tools(self, text, streamed):
        from langchain_core.messages import HumanMessage, ToolMessage

        model = self.model.bind_tools([{"type": "function", "function": WEATHER}])
        talk = [HumanMessage(text)]
        if streamed:
            chunks = list(model.stream(talk))
            answer = sum(chunks[1:], chunks[0])
        else:
            answer = model.invoke(talk)
        call = answer.tool_calls[0]
        last = model.invoke([*talk, answer, ToolMessage("sunny", tool_call_id=call["id"])])
        return {"tool": call["name"], "input": call["args"], "stop": stop(answer), "text": last.text}


def stop(answer):
    return answer.response_metadata.get("finish_reason") or answer.response_metadata.get("stop_reason")


class LangChainOpenAi(LangChain):
    """`langchain-openai`."""

    def __init__(self, url, headers):
        from langchain_openai import ChatOpenAI

        self.model = ChatOpenAI(model="gpt-demo", base_url=url + "/v1", api_key="sk-test", timeout=TIMEOUT,
                                default_headers=headers, stream_usage=True)


class LangChainAnthropic(LangChain):
    """`langchain-anthropic`."""

    def __init__(self, url, headers):
        from langchain_anthropic import ChatAnthropic

        self.model = ChatAnthropic(model="claude-demo", base_url=url, api_key="sk-ant-test", timeout=TIMEOUT,
                                   default_headers=headers, max_tokens=1000)


class Mcp:
    """`mcp`, one session of the streamable HTTP transport per call; the words arrive as log messages."""

    def __init__(self, url, headers):
        self.url, self.headers = url + "/mcp", headers

    async def call(self, arguments, heard=None):
        from mcp import Client
        from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client

        async def hear(params):
            if params.data != "listening":  # The server's own stream says so at its begin.
                heard.put(params.data)

        transport = streamable_http_client(self.url, http_client=create_mcp_http_client(headers=self.headers))
        async with Client(transport, mode="legacy", logging_callback=heard and hear,
                          read_timeout_seconds=TIMEOUT) as client:
            tool = (await client.list_tools()).tools[0].name
            result = await client.call_tool(tool, arguments)
            return tool, result.content[0].text

    def whole(self, text):
        return {"text": asyncio.run(self.call({"text": text, "stream": False}))[1], "stop": "result"}

    def streamed(self, text, end):
        heard = queue.Queue()
        with ThreadPoolExecutor(1) as pool:
            calling = pool.submit(asyncio.run, self.call({"text": text}, heard))
            calling.add_done_callback(lambda _: heard.put(None))
            yield from iter(heard.get, None)
            calling.result()
        end["stop"] = "result"

    def tools(self, text, streamed):
        tool, said = asyncio.run(self.call({"text": text, "stream": streamed}))
        return {"tool": tool, "stop": "result", "text": said}


PROGRAMS = {
    "openai": OpenAi,
    "openai-responses": OpenAiResponses,
    "anthropic": Anthropic,
    "mistralai": Mistral,
    "ollama": Ollama,
    "langchain-openai": LangChainOpenAi,
    "langchain-anthropic": LangChainAnthropic,
    "mcp": Mcp,
}


def failure(error):
    """The error as its caller sees it; task groups wrap it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return {
        "class": type(error).__name__,
        "status": getattr(error, "status_code", None),
        "message": str(error),
        "body": str(getattr(error, "body", None) or ""),
    }


def command(control, session, order, body=b""):
    """Sends the operator's kill and resume."""
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{control}/control/sessions/{session}/{order}", body, headers, method="POST")
    with urllib.request.urlopen(request, timeout=TIMEOUT):
        pass


def streamed(program, text, report, after_piece=lambda count: None):
    pieces, end = [], {}
    try:
        for piece in program.streamed(text, end):
            if piece:
                pieces.append(piece)
                after_piece(len(pieces))
    finally:
        report |= {"text": "".join(pieces)[:200], "pieces": len(pieces), **end}


def kill(program, text, report, operator):
    def kill_after_five(count):
        if count == 5:
            operator("kill", b'{"reason": "runaway"}')

    try:
        streamed(program, text, report, kill_after_five)
    except Exception as error:
        report["failure"] = failure(error)
    try:
        report["next"] = program.whole("after the kill")
    except Exception as error:
        report["next"] = failure(error)
    operator("resume")
    report["again"] = program.whole("one two three")["text"]


def play(scenario, name, url, control):
    session = f"{name}-{scenario['name']}"
    report = {"scenario": scenario["name"]}
    try:
        program = PROGRAMS[name](url, {"X-Session-ID": session, **scenario.get("headers", {})})
        text = scenario["text"]
        match scenario["asks"]:
            case "whole":
                report |= program.whole(text)
            case "streamed":
                streamed(program, text, report)
            case "tools":
                report |= program.tools(text, scenario["streamed"])
            case "kill":
                kill(program, text, report, lambda order, body=b"": command(control, session, order, body))
    except Exception as error:
        report["failure"] = failure(error)
    return report


def main():
    name, url, control, *only = sys.argv[1:]
    scenarios = [scenario for scenario in json.loads(SCENARIOS.read_text()) if not only or scenario["name"] in only]
    with ThreadPoolExecutor(len(scenarios)) as pool:
        for report in pool.map(lambda scenario: play(scenario, name, url, control), scenarios):
            print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
