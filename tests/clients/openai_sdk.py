"""The official OpenAI SDK as a client of the gateway.

    openai_sdk.py URL whole|streamed|tools|whole_tools|responses|responses_streamed|kill|kill_responses [SESSION]

Each mode prints one JSON object at its end. The `kill` modes stream slowly, print `event N` for each
event, and say at the end what stopped them and what the next request got.
"""

import json
import sys

import openai

TOOL = {
    "name": "weather",
    "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = 'Weather? [[tool weather {"city": "Zürich", "days": [1, 2, 3]}]]'
SLOW = "[[words 2000]] [[pace 20ms]]"


def client(url, session):
    headers = {"X-Session-ID": session} if session else {}
    return openai.OpenAI(base_url=url + "/v1", api_key="sk-test", default_headers=headers, timeout=20)


def ask(text, **more):
    return {"model": "gpt-demo", "messages": [{"role": "user", "content": text}], **more}


def failure(error):
    return {
        "type": type(error).__name__,
        "kinds": [kind.__name__ for kind in type(error).__mro__],
        "status": getattr(error, "status_code", None),
        "message": str(error),
        "body": getattr(error, "body", None),
    }


def whole(api):
    answer = api.chat.completions.create(**ask("one two three"))
    return {"text": answer.choices[0].message.content, "output_tokens": answer.usage.completion_tokens,
            "stop": answer.choices[0].finish_reason}


def streamed(api):
    pieces, stop, usage = [], None, None
    for chunk in api.chat.completions.create(**ask("one two three", stream=True, stream_options={"include_usage": True})):
        if chunk.choices:
            pieces.append(chunk.choices[0].delta.content or "")
            stop = chunk.choices[0].finish_reason or stop
        usage = chunk.usage or usage
    return {"text": "".join(pieces), "pieces": len([piece for piece in pieces if piece]),
            "output_tokens": usage.completion_tokens, "stop": stop}


def tools(api, is_streamed=True):
    first = ask(CALL, tools=[{"type": "function", "function": TOOL}])
    if is_streamed:
        with api.chat.completions.stream(**first) as stream:
            for _ in stream:
                pass
            answer = stream.get_final_completion()
    else:
        answer = api.chat.completions.create(**first)
    call = answer.choices[0].message.tool_calls[0]
    assistant = {"role": "assistant", "content": None, "tool_calls": [
        {"id": call.id, "type": "function",
         "function": {"name": call.function.name, "arguments": call.function.arguments}}]}
    first["messages"] += [assistant, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    last = api.chat.completions.create(**first)
    return {"tool": call.function.name, "input": json.loads(call.function.arguments),
            "stop": answer.choices[0].finish_reason, "text": last.choices[0].message.content}


def responses(api):
    answer = api.responses.create(model="gpt-5-demo", input="one two three")
    return {"text": answer.output_text, "output_tokens": answer.usage.output_tokens, "stop": answer.status}


def responses_streamed(api):
    pieces = []
    with api.responses.stream(model="gpt-5-demo", input="one two three") as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                pieces.append(event.delta)
        answer = stream.get_final_response()
    return {"text": "".join(pieces), "pieces": len(pieces), "output_tokens": answer.usage.output_tokens,
            "stop": answer.status}


def slow_chat(api):
    for chunk in api.chat.completions.create(**ask(SLOW, stream=True)):
        yield bool(chunk.choices and chunk.choices[0].finish_reason)


def slow_response(api):
    for event in api.responses.create(model="gpt-5-demo", input=SLOW, stream=True):
        yield event.type == "response.completed"


def kill(api, slow=slow_chat):
    report = {"stopped_by": None, "events": 0, "finished": False}
    try:
        for is_last in slow(api):
            report["events"] += 1
            print(f"event {report['events']}", flush=True)
            report["finished"] = report["finished"] or is_last
    except Exception as error:
        report["stopped_by"] = failure(error)
    report["next"] = None
    try:
        api.chat.completions.create(**ask("after the kill"))
    except Exception as error:
        report["next"] = failure(error)
    return report


MODES = {"whole": whole, "streamed": streamed, "tools": tools, "responses": responses,
         "responses_streamed": responses_streamed, "kill": kill,
         "kill_responses": lambda api: kill(api, slow_response),
         "whole_tools": lambda api: tools(api, is_streamed=False)}

if __name__ == "__main__":
    url, mode, *session = sys.argv[1:]
    print(json.dumps(MODES[mode](client(url, session[0] if session else None))), flush=True)
