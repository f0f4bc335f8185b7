"""The official Anthropic SDK as a client of the gateway.

    anthropic_sdk.py URL whole|streamed|tools|whole_tools|kill [SESSION]

Each mode prints one JSON object at its end. `kill` streams slowly, prints `event N` for each event,
and says at the end what stopped it and what the next request got.
"""

import json
import sys

import anthropic

TOOL = {
    "name": "weather",
    "description": "The weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = 'Weather? [[tool weather {"city": "Zürich", "days": [1, 2, 3]}]]'


def client(url, session, **options):
    headers = {"X-Session-ID": session} if session else {}
    return anthropic.Anthropic(base_url=url, api_key="sk-ant-test", default_headers=headers, timeout=20, **options)


def ask(text, **more):
    return {"model": "claude-demo", "max_tokens": 1000, "messages": [{"role": "user", "content": text}], **more}


def failure(error):
    return {
        "type": type(error).__name__,
        "kinds": [kind.__name__ for kind in type(error).__mro__],
        "status": getattr(error, "status_code", None),
        "message": str(error),
        "body": getattr(error, "body", None),
    }


def whole(api):
    answer = api.messages.create(**ask("one two three"))
    return {"text": answer.content[0].text, "output_tokens": answer.usage.output_tokens, "stop": answer.stop_reason}


def streamed(api):
    with api.messages.stream(**ask("one two three")) as stream:
        pieces = list(stream.text_stream)
        answer = stream.get_final_message()
    return {"text": "".join(pieces), "pieces": len(pieces), "output_tokens": answer.usage.output_tokens,
            "stop": answer.stop_reason}


def tools(api, is_streamed=True):
    first = ask(CALL, tools=[TOOL])
    if is_streamed:
        with api.messages.stream(**first) as stream:
            answer = stream.get_final_message()
    else:
        answer = api.messages.create(**first)
    call = next(block for block in answer.content if block.type == "tool_use")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    first["messages"] += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    last = api.messages.create(**first)
    return {"tool": call.name, "input": call.input, "stop": answer.stop_reason, "text": last.content[0].text}


def kill(api):
    report = {"stopped_by": None, "events": 0, "finished": False}
    try:
        with api.messages.stream(**ask("[[words 2000]] [[pace 20ms]]")) as stream:
            for event in stream:
                report["events"] += 1
                print(f"event {report['events']}", flush=True)
                if event.type == "message_stop":
                    report["finished"] = True
    except Exception as error:
        report["stopped_by"] = failure(error)
    report["next"] = None
    try:
        api.messages.create(**ask("after the kill"))
    except Exception as error:
        report["next"] = failure(error)
    return report


MODES = {"whole": whole, "streamed": streamed, "tools": tools, "kill": kill,
         "whole_tools": lambda api: tools(api, is_streamed=False)}

if __name__ == "__main__":
    url, mode, *session = sys.argv[1:]
    print(json.dumps(MODES[mode](client(url, session[0] if session else None))), flush=True)
